"""Golden files of the metrics that read a choice or a value in an answer: MMMU, MathVista, MMBench.

python scripts/goldens/choices.py --sources FOLDER

Needs numpy, pandas and python-Levenshtein; `_oracles.py` says what the folder holds. Where official code draws an
option at random, the golden row says "?"; where it would ask a language model, it gets no answer.
"""

import random
import string

import Levenshtein
import numpy as np
import pandas as pd
from _oracles import arguments, pick, plain, write
from _strings import answer, changed, number, prose

SEED = 20_261
RELATIVE = "vision/m4/evaluation/custom_metrics"
GUESS = "?"

TEXTS = [
    "red",
    "blue",
    "dark blue",
    "a dog",
    "the dog",
    "12",
    "120",
    "3.5",
    "yes",
    "no",
    "Yes",
    "USA",
    "none of these",
    "1/2",
    "$5",
    "A",
    "B",
    "left",
    "Paris",
    "paris",
    "x",
    "nan",
    "É",
    "both A and B",
    "a cat and a dog",
]


def no_log() -> object:
    """In place of a logger."""
    return plain(info=lambda text: None, warning=lambda text: None, error=lambda text: None)


def options_of(random_: random.Random) -> list[str]:
    """Two to six different options."""
    return random_.sample(TEXTS, random_.choice((2, 3, 4, 4, 4, 4, 5, 6)))


def said_of(random_: random.Random, options: list[str]) -> str:
    """An answer that names letters or texts of the options, in prose or alone."""
    letters = list(string.ascii_uppercase[: len(options)])
    named = [*letters, *letters, *options, random_.choice("EFZabc")]
    return random_.choices(
        (prose(random_, named), changed(random_, random_.choice(named)), answer(random_)), (8, 2, 1)
    )[0]


def mmmu(folder, out) -> None:
    guessing = plain(choice=lambda letters: GUESS, seed=lambda number: None)
    official = pick(
        folder / "MMMU/mmmu/utils/eval_utils.py",
        *("parse_multi_choice_response", "parse_open_response", "eval_multi_choice", "eval_open", "normalize_str"),
        *("check_is_number", "extract_numbers"),
        random=guessing,
        np=np,
    )
    tasks = folder / "lmms_eval/tasks"
    lmms = pick(tasks / "_task_utils/mmmu_mcq_utils.py", "parse_mmmu_multi_choice_response", random=guessing, np=np)
    own = ("parse_open_response", "eval_open", "normalize_str", "check_is_number", "extract_numbers")
    lmms_open = pick(tasks / "mmmu/utils.py", *own)
    kit, m4 = vlmevalkit(folder), m4_score(folder)
    random_ = random.Random(SEED)
    rows = []
    for _ in range(1800):
        options = options_of(random_)
        letters = list(string.ascii_uppercase[: len(options)])
        said, truth = said_of(random_, options), random_.choice(letters)
        named = dict(zip(letters, options, strict=True))
        read = [
            official["parse_multi_choice_response"](said, letters, named),
            lmms["parse_mmmu_multi_choice_response"](said, letters, named),
        ]
        read.append(kit["extract_answer_from_item"](None, {**named, "prediction": said, "question": ""})["opt"])
        rows.append([said, [truth], options, *read, float(m4([said], [[truth]], True)[0])])
    for _ in range(1200):
        truth = random_.choice((answer(random_, 3), number(random_), number(random_), random_.choice(TEXTS)))
        answers = [truth] if random_.random() < 0.8 else [truth, number(random_)]
        said = prose(random_, [truth, changed(random_, truth), number(random_), answer(random_)])
        given = answers if len(answers) > 1 else truth
        item = {"A": truth, "B": "Other Answers", "prediction": said, "question": ""}
        gold = truth if truth in list(string.ascii_uppercase) else "A"
        rows.append(
            [
                *(said, answers, []),
                float(official["eval_open"](given, official["parse_open_response"](said))),
                float(lmms_open["eval_open"](given, lmms_open["parse_open_response"](said))),
                float(kit["extract_answer_from_item"](None, item)["opt"] == gold) if len(answers) == 1 else None,
                float(m4([said], [answers], False)[0]),
            ]
        )
    columns = ["said", "answers", "choices", "official", "lmms-eval", "vlmevalkit", "m4"]
    about = "MMMU: the letter read (m4: the score), and the score where there are no choices"
    write(out / "mmmu.jsonl", about, ("MMMU", "lmms-eval", "vlmevalkit", "m4"), columns, rows)


def vlmevalkit(folder):
    home = folder / "vlmeval/vlmeval"
    matching = pick(
        home / "utils/matching_util.py",
        *("can_infer", "can_infer_option", "can_infer_text"),
        os=plain(environ={}),
        cp=plain(copy=str),
        logger=no_log(),
    )
    return pick(
        home / "dataset/utils/multiple_choice.py",
        *("extract_answer_from_item", "build_choices", "prefetch_answer", "prefetch_circular_group", "build_prompt"),
        can_infer=matching["can_infer"],
        build_option_str=lambda choices: "",
        cn_string=lambda text: False,
        pd=pd,
        logger=no_log(),
    ) | {"can_infer": matching["can_infer"]}


def m4_score(folder):
    path = folder / "smollm" / RELATIVE
    names = ("convert_to_number", "check_is_number", "NUMBER_WORD_TO_NUMBER_INT", "normalize_str_mmmu")
    utils = pick(path / "utils.py", *names, "parse_open_response_mmmu", "extract_numbers_mmmu")
    found = pick(
        path / "open_ended_vqa_metrics.py",
        *("OpenEndedVQAMetrics", "MCQ_POSSIBLE_CHOICES"),
        evaluate=plain(Metric=object),
        OEVQAMetrics=plain(),
        parse_open_response_mmmu=utils["parse_open_response_mmmu"],
    )["OpenEndedVQAMetrics"]

    def score(said, answers, choices):
        return found._compute_mmmu_style_vqa_accuracy(None, said, answers, utils["normalize_str_mmmu"], choices)

    return score


def mathvista(folder, out) -> None:
    home = folder / "MathVista/evaluation"
    official = pick(
        home / "calculate_score.py",
        *("normalize_extracted_answer", "get_most_similar", "safe_equal"),
        distance=Levenshtein.distance,
    )
    # A language model that never answers: what is raised is caught there, and nothing is extracted.
    extract = pick(
        home / "extract_answer.py", "extract_answer", "create_test_prompt", demo_prompt="", logging=no_log()
    )["extract_answer"]
    lmms = pick(
        folder / "lmms_eval/tasks/mathvista/mathvista_evals.py",
        "MathVistaEvaluator",
        shot_examples=[],
        DEMO_PROMPT="",
        distance=Levenshtein.distance,
        eval_logger=no_log(),
        os=plain(getenv=lambda *names: ""),
        ServerConfig=lambda **settings: None,
        get_server=lambda **settings: None,
        config={"metadata": {}},
    )["MathVistaEvaluator"]
    silent = lmms.__new__(lmms)
    silent.get_chat_response = lambda *given, **named: ""
    kit = pick(
        folder / "vlmeval/vlmeval/dataset/utils/mathvista.py",
        *("post_check", "list_to_dict"),
        can_infer=vlmevalkit(folder)["can_infer"],
    )["post_check"]
    random_ = random.Random(SEED + 1)
    rows = []
    for _ in range(2600):
        problem = problem_of(random_)
        said = problem.pop("said")
        found = extract(None, said, {**problem, "query": "", "pid": ""}, quick_extract=True)
        given = [problem[key] for key in ("choices", "question_type", "answer_type", "precision")]
        parsed = official["normalize_extracted_answer"](found, *given)
        right = float(official["safe_equal"](parsed, problem["answer"]))
        stripped = said.strip()
        theirs = silent.extract_answer(stripped, {**problem, "query": ""})
        theirs = silent.normalize_extracted_answer(theirs, *given)
        line = {**problem, "prediction": said, "choices": repr(problem["choices"])}
        if problem["choices"]:
            line["answer_option"] = string.ascii_uppercase[problem["choices"].index(problem["answer"])]
        line["res"] = kit(line, prefetch=True) or ""
        rows.append(
            [
                *(said, [problem["answer"]], problem["choices"], problem["answer_type"], problem["precision"]),
                *(found, parsed, right, float(silent.safe_equal(theirs, problem["answer"])), float(kit(line))),
            ]
        )
    columns = ["said", "answers", "choices", "kind", "precision", "extracted", "parsed"]
    columns += ["official", "lmms-eval", "vlmevalkit"]
    about = "MathVista without a judge"
    write(out / "mathvista.jsonl", about, ("MathVista", "lmms-eval", "vlmevalkit"), columns, rows)


def problem_of(random_: random.Random) -> dict:
    """A problem of any type, with what was said."""
    if random_.random() < 0.5:
        choices = options_of(random_)
        truth = random_.choice(choices)
        said = random_.choices((said_of(random_, choices), truth, f'The answer is "{truth}".'), (6, 1, 1))[0]
        return problem("multi_choice", "text", choices, truth, None, said)
    kind = random_.choice(("integer", "integer", "float", "float", "list"))
    precision = None
    if kind == "integer":
        truth = str(random_.randint(-5, 2030))
    elif kind == "float":
        precision = random_.choice((1, 2, 1.0, 2.0))
        truth = str(round(random_.uniform(-5, 50), int(precision)))
    else:
        truth = str([random_.randint(0, 9) for _ in range(2)])
    texts = [truth, f" {truth} ", number(random_), changed(random_, truth), truth + "0"]
    said = random_.choice(texts) if random_.random() < 0.6 else prose(random_, texts)
    return problem("free_form", kind, [], truth, precision, said)


def problem(question, kind, choices, truth, precision, said) -> dict:
    return {
        **{"question_type": question, "answer_type": kind, "choices": choices},
        **{"answer": truth, "precision": precision, "said": said},
    }


def mmbench(folder, out) -> None:
    kit = vlmevalkit(folder)
    tasks = folder / "lmms_eval/tasks"
    letter = pick(
        tasks / "_task_utils/mcq_extract.py",
        *("extract_mcq_answer", "_DEFAULT_CHOICES", "_ANSWER_PHRASES", "_FORMAT_PRIORITY"),
    )["extract_mcq_answer"]
    lmms = pick(tasks / "mmbench/mmbench_evals.py", "MMBench_Evaluator", pd=pd, eval_logger=no_log())
    lmms = lmms["MMBench_Evaluator"].__new__(lmms["MMBench_Evaluator"])
    stand_in(letter)
    random_ = random.Random(SEED + 2)
    rows = []
    for group in range(700):
        options = options_of(random_)[:4]
        letters = string.ascii_uppercase[: len(options)]
        right, care = random_.randrange(len(options)), random_.random() < 0.6
        group_rows, items = [], []
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            truth = letters[(right - turn) % len(options)]
            said = said_of(random_, turned)
            if care and random_.random() < 0.9:
                said = (
                    prose(random_, [truth]) if random_.random() < 0.5 else truth + random_.choice(("", ".", ")", ": x"))
                )
            named = dict(zip("ABCD", [*turned, *[None] * 4], strict=False))
            items.append({**named, "prediction": said, "GT": truth, "index": turn, "question": ""})
            group_rows.append([said, [truth], turned, str(group)])
        table = pd.DataFrame(items)
        ours = kit["prefetch_circular_group"](table)
        truths = {item["index"]: item["GT"] for item in items}
        theirs = lmms.eval_sub_data(table.assign(prediction=[i["prediction"].strip() for i in items]), truths, True)
        for row, item in zip(group_rows, items, strict=True):
            alone = {key: value for key, value in item.items() if value is not None}
            one = kit["extract_answer_from_item"](None, alone)["opt"] == item["GT"]
            rows.append([*row, float(bool(ours and ours["hit"])), float(theirs), float(one)])
    columns = ["said", "answers", "choices", "group", "official", "lmms-eval", "vanilla"]
    write(out / "mmbench.jsonl", "MMBench, circular", ("vlmevalkit", "lmms-eval"), columns, rows)
    texts = dict.fromkeys(said_of(random_, options_of(random_)) for _ in range(1200))
    rows = [[text, letter(text, list("ABCD"))] for text in texts]
    write(out / "letter.jsonl", "the letter that lmms-eval reads", ("lmms-eval",), ["said", "lmms-eval"], rows)


def stand_in(letter) -> None:
    """A module that lmms-eval's code imports as it runs, holding the one function that it takes from there."""
    import sys
    import types

    name = "lmms_eval.tasks._task_utils.mcq_extract"
    for at in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:at])
        sys.modules[part] = types.ModuleType(part)
    sys.modules[name].extract_mcq_answer = letter


def main() -> None:
    told = arguments(__doc__)
    for make in (mmmu, mathvista, mmbench):
        make(told.sources, told.out)


if __name__ == "__main__":
    main()
