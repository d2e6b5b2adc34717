"""Golden files of the metrics of short answers: VQA accuracy, ANLS, exact match, relaxed accuracy.

python scripts/goldens/answers.py --sources FOLDER

Needs no package but numpy, evaluate, datasets and python-Levenshtein; `_oracles.py` says what the folder holds.
"""

import json
import random
import tempfile
from pathlib import Path

import Levenshtein
import numpy as np
from _oracles import arguments, pick, plain, write
from _strings import answer, changed, number

SEED = 20_260
RELATIVE = "vision/m4/evaluation/custom_metrics"

PUBLISHED = [  # of the kinds that papers and issues show
    ("March 4.", ["March 4"]),
    ("a", ["ab"]),
    ("1,234.", ["1,234"]),
    ("Yes", ["yes"]),
    ("3.0", ["3"]),
    ("10%", ["0.1"]),
    ("105", ["100"]),
    ("106", ["100"]),
    ("95", ["100"]),
    ("100", ["-5"]),
]


def answers_of_people(random_: random.Random) -> tuple[str, list[str]]:
    """What was said and what ten people said: few different answers, in various spellings."""
    kinds = [answer(random_, 4) for _ in range(random_.choice((1, 2, 2, 3, 4)))]
    spell = (lambda text: changed(random_, text)) if random_.random() < 0.15 else str
    people = [spell(random_.choice(kinds)) for _ in range(random_.choice((10, 10, 10, 10, 10, 1, 2, 3, 5)))]
    said = random_.choice(people) if random_.random() < 0.5 else random_.choice(kinds)
    said = random_.choices((said, changed(random_, said), answer(random_)), (4, 4, 1))[0]
    return said, people


def vqa_official(folder):
    code = pick(folder / "VQA/PythonEvaluationTools/vqaEvaluation/vqaEval.py", "VQAEval", print=lambda text: None)[
        "VQAEval"
    ]

    def score(said, people):
        answers = [{"answer": text, "answer_id": at} for at, text in enumerate(people)]
        question = {"answers": answers, "question_type": "", "answer_type": ""}
        own = plain(qa={0: question}, getQuesIds=lambda: [0])
        run = code(own, plain(qa={0: {"answer": said}}), n=20)
        run.updateProgress = lambda progress: None
        run.evaluate()
        return run.evalQA[0] / 100

    own = code(plain(getQuesIds=list), None)

    def normal(text):
        text = text.replace("\n", " ").replace("\t", " ").strip()
        return own.processDigitArticle(own.processPunctuation(text))

    return score, normal


def vqa(folder, out) -> None:
    official, normal = vqa_official(folder)
    lmms = folder / "lmms_eval/tasks"
    processor = pick(lmms / "_task_utils/vqa_eval_metric.py", "EvalAIAnswerProcessor")["EvalAIAnswerProcessor"]
    vqav2 = pick(lmms / "vqav2/utils.py", "vqav2_process_results", EvalAIAnswerProcessor=processor)
    textvqa = pick(lmms / "textvqa/utils.py", "textvqa_process_results", EvalAIAnswerProcessor=processor)
    kit = vlmevalkit(folder)
    m4 = pick(folder / "smollm" / RELATIVE / "utils.py", "VQANormalizationGtVisionLab")
    m4_normal = m4["VQANormalizationGtVisionLab"]().vqa_normalize_text
    m4_score = m4_metric(folder)._compute_vqa_accuracy
    random_ = random.Random(SEED)
    rows = []
    for _ in range(1200):
        said, people = answers_of_people(random_)
        doc = {"question_id": 0, "answers": [{"answer": text, "answer_id": at} for at, text in enumerate(people)]}
        rows.append(
            [
                said,
                people,
                official(said, people),
                vqav2["vqav2_process_results"](doc, [said])["exact_match"],
                textvqa["textvqa_process_results"]({"question_id": 0, "answers": list(people)}, [said])["exact_match"],
                float(np.mean(kit["process_line"]({"answer": repr(people), "prediction": said})["match"])),
                m4_score(None, [said], [people], m4_normal)[1][0],
            ]
        )
    columns = ["said", "answers", "official", "lmms-eval", "lmms-eval-textvqa", "vlmevalkit", "m4"]
    write(out / "vqa.jsonl", "VQA accuracy", ("VQA", "lmms-eval", "vlmevalkit", "m4"), columns, rows)
    texts = dict.fromkeys(answer(random_, 7) for _ in range(3000))
    texts |= dict.fromkeys(changed(random_, text) for text in list(texts)[:500])
    texts |= dict.fromkeys(("a.b" * 40, "1,2" + "-" * 40, "x." * 40))
    rows = [[text, normal(text), processor()(text), kit["process_answer"](text)] for text in texts]
    columns = ["text", "official", "lmms-eval-textvqa", "vlmevalkit"]
    write(out / "vqa_normalise.jsonl", "VQA's normalisation", ("VQA", "lmms-eval", "vlmevalkit"), columns, rows)


def vlmevalkit(folder):
    misc = pick(folder / "vlmeval/vlmeval/smp/misc.py", "process_punctuation")
    names = ("_process_digit_article", "relaxed_correctness", "levenshtein_distance", "anls_compute", "process_answer")
    return pick(
        folder / "vlmeval/vlmeval/dataset/utils/vqa_eval.py",
        *(*names, "process_line", "hit_calculate"),
        process_punctuation=misc["process_punctuation"],
        istype=lambda text, kind: isinstance(eval(text), kind),
        listinstr=lambda known, name: any(one in name for one in known),
        np=np,
    )


def m4_metric(folder):
    utils = pick(
        folder / "smollm" / RELATIVE / "utils.py",
        *("convert_to_number", "check_is_number", "NUMBER_WORD_TO_NUMBER_INT"),
    )
    path = folder / "smollm" / RELATIVE / "open_ended_vqa_metrics.py"
    given = {name: utils[name] for name in ("convert_to_number", "check_is_number")}
    found = pick(
        path,
        "OpenEndedVQAMetrics",
        evaluate=plain(Metric=object),
        OEVQAMetrics=plain(),
        **given,
    )
    return found["OpenEndedVQAMetrics"]


def anls(folder, out) -> None:
    script = folder / "Qwen-VL/eval_mm/infographicsvqa_eval.py"
    code = pick(script, "levenshtein_distance", "evaluate_method", "question_ids_to_exclude")
    lmms = pick(folder / "lmms_eval/api/metrics.py", "levenshtein_distance", "anls", register_metric=_bare)
    kit = vlmevalkit(folder)
    m4 = pick(
        folder / "smollm" / RELATIVE / "doc_vqa_metrics.py",
        *("normalized_levenshtein", "similarity_score", "average_normalized_levenshtein_similarity"),
        Levenshtein=Levenshtein,
        logger=plain(warning=lambda text: None),
    )["average_normalized_levenshtein_similarity"]
    random_ = random.Random(SEED + 1)
    cases = [*PUBLISHED, *(answers_of_people(random_) for _ in range(2500))]
    cases = [(said, list(dict.fromkeys(people))[:3]) for said, people in cases]
    official = rrc(code, cases)
    rows = []
    for (said, people), score in zip(cases, official, strict=True):
        match = kit["process_line"]({"answer": repr(people), "prediction": said}, method="anls")
        own = said.strip().strip(".").lower()  # as DocVQAMetrics._compute hands it over
        rows.append(
            [
                *(said, people, score, float(lmms["anls"](people, [said])["anls"])),
                float(kit["hit_calculate"]([match], "DocVQA")[0]),
                float(m4([[text.lower() for text in people]], [own])),
            ]
        )
    columns = ["said", "answers", "official", "lmms-eval", "vlmevalkit", "m4"]
    write(out / "anls.jsonl", "ANLS", ("Qwen-VL", "lmms-eval", "vlmevalkit", "m4"), columns, rows)


def rrc(code, cases) -> list[float]:
    """The scores of the server's script, which reads files."""
    with tempfile.TemporaryDirectory() as folder:
        truth, said = Path(folder) / "truth.json", Path(folder) / "said.json"
        questions = [{"questionId": at, "answers": people, "question": ""} for at, (_, people) in enumerate(cases)]
        truth.write_text(json.dumps({"data": questions, "dataset_name": ""}))
        said.write_text(json.dumps([{"questionId": at, "answer": text} for at, (text, _) in enumerate(cases)]))
        code["json"] = json
        settings = plain(answer_types=False, anls_threshold=0.5)
        found = code["evaluate_method"](str(truth), str(said), settings)["per_sample_result"]
    return [found[str(at)]["score"] for at in range(len(cases))]


def _bare(**settings):
    return lambda function: function


def exact(folder, out) -> None:
    kit = vlmevalkit(folder)
    lmms = pick(folder / "lmms_eval/api/metrics.py", "exact_match_hf_evaluate", np=np)
    match = lmms["exact_match_hf_evaluate"]
    random_ = random.Random(SEED + 2)
    rows = []
    for _ in range(1000):
        said, people = answers_of_people(random_)
        people = list(dict.fromkeys(people))[:2]
        if "İ" in said + "".join(people):
            continue  # two letters in lower case, of which numpy's array of texts keeps one
        found = kit["process_line"]({"answer": repr(people), "prediction": said}, method="accuracy")["match"]
        ours = max(
            float(match([said], [one], ignore_case=True, ignore_punctuation=True)["exact_match"]) for one in people
        )
        rows.append([said, people, ours, max(found)])
    columns = ["said", "answers", "lmms-eval", "vlmevalkit"]
    write(out / "exact.jsonl", "exact match", ("lmms-eval", "vlmevalkit"), columns, rows)


def relaxed(folder, out) -> None:
    official = pick(folder / "pix2struct/pix2struct/metrics.py", "relaxed_correctness", "aggregate_metrics")
    lmms = pick(folder / "lmms_eval/tasks/chartqa/utils.py", "relaxed_correctness")["relaxed_correctness"]
    kit, m4 = vlmevalkit(folder), m4_metric(folder)._compute_relaxed_vqa_accuracy
    random_ = random.Random(SEED + 3)
    cases = list(PUBLISHED)
    for _ in range(3000):
        truth = number(random_) if random_.random() < 0.7 else answer(random_, 3)
        said = random_.choices((near(random_, truth), changed(random_, truth), number(random_)), (5, 2, 1))[0]
        cases.append((said, [truth] if random_.random() < 0.8 else [truth, number(random_), answer(random_)]))
    rows = []
    for said, answers in cases:
        whole = official["aggregate_metrics"]([answers], [said], official["relaxed_correctness"])
        found = kit["process_line"]({"answer": repr(answers), "prediction": said}, method="relaxed_accuracy")["match"]
        rows.append(
            [
                *(said, answers, whole / 100, float(lmms(said, answers[0])), float(max(found))),
                float(m4(None, [said], [answers], lambda text: text.strip("."))[0]),
            ]
        )
    columns = ["said", "answers", "official", "lmms-eval", "vlmevalkit", "m4"]
    about = "relaxed accuracy"
    write(out / "relaxed.jsonl", about, ("pix2struct", "lmms-eval", "vlmevalkit", "m4"), columns, rows)


def near(random_: random.Random, truth: str) -> str:
    """A number close to the true one, around the 5 % that are allowed, if it is one."""
    try:
        value = float(truth.rstrip("%"))
    except ValueError:
        return truth
    share = random_.choice((0, 0.01, 0.049, 0.05, 0.051, 0.2)) * random_.choice((-1, 1))
    return f"{value * (1 + share):.6g}" + ("%" if truth.endswith("%") and random_.random() < 0.7 else "")


def main() -> None:
    told = arguments(__doc__)
    for make in (vqa, anls, exact, relaxed):
        make(told.sources, told.out)


if __name__ == "__main__":
    main()
