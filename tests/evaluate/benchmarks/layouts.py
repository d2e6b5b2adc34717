"""Small folders in the layouts in which benchmarks are published: real names of files and columns, real types."""

import base64
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = pa.list_(pa.string())


def png(shade: int) -> bytes:
    """A grey square: its shade tells the pictures of a test apart."""
    held = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (shade, shade, shade)).save(held, "PNG")
    return held.getvalue()


def image(shade: int) -> dict[str, Any]:
    return {"bytes": png(shade), "path": None}


def parquet(path: Path, columns: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
    """A parquet file with those columns and types, two rows a group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(list(columns.items())))
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


def written(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def picture(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(shade))
    return path


COUNT = 6
COLOURS = ("red", "blue", "green", "grey", "black", "white")


def vqa_answers(at: int) -> list[dict[str, Any]]:
    return [{"answer": COLOURS[at], "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)]


def vqav2(folder: Path) -> Path:
    """As lmms-lab/VQAv2, with the train split that it lacks."""
    answers = pa.list_(
        pa.struct([("answer", pa.string()), ("answer_confidence", pa.string()), ("answer_id", pa.int64())])
    )
    columns = {
        **{"question_type": pa.string(), "multiple_choice_answer": pa.string(), "answers": answers},
        **{"image_id": pa.int64(), "answer_type": pa.string(), "question_id": pa.int64()},
        **{"question": pa.string(), "image": IMAGE},
    }
    for start, split in ((100, "train"), (200, "validation"), (300, "testdev")):
        hidden = split == "testdev"
        rows = [
            {
                "answers": None if hidden else vqa_answers(at),
                "answer_type": None if hidden else "other",
                "multiple_choice_answer": None if hidden else COLOURS[at],
                "question_id": start + at,
                "question": f"What colour is thing {start + at}?",
                "image": image(start // 10 + at),
            }
            for at in range(COUNT)
        ]
        parquet(folder / "data" / f"{split}-00000-of-00002.parquet", columns, rows[:4])
        parquet(folder / "data" / f"{split}-00001-of-00002.parquet", columns, rows[4:])
    return folder


def vqa_official(folder: Path, first: str = "v2_", name: str = "val2014", images: str = "val2014") -> Path:
    """As visualqa.org and okvqa.allenai.org publish it."""
    asked = [{"image_id": at, "question": f"What colour is thing {at}?", "question_id": 10 * at} for at in range(COUNT)]
    written(folder / f"{first}OpenEnded_mscoco_{name}_questions.json", {"questions": asked, "data_type": "mscoco"})
    if not name.startswith("test"):
        told = [
            {
                "question_id": one["question_id"],
                "image_id": one["image_id"],
                "question_type": "what",
                "answer_type": "other",
                "answers": [
                    {**answer, "raw_answer": answer["answer"] + "ish"} for answer in vqa_answers(one["image_id"])
                ],
            }
            for one in reversed(asked)
        ]
        written(folder / f"{first}mscoco_{name}_annotations.json", {"annotations": told})
    for at in range(COUNT):
        picture(folder / images / f"COCO_{images}_{at:012}.jpg", 40 + at)
    return folder


def textvqa(folder: Path) -> Path:
    """As facebook/textvqa."""
    columns = {
        **{"image_id": pa.string(), "question_id": pa.int32(), "question": pa.string(), "question_tokens": TEXTS},
        **{"image": IMAGE, "image_width": pa.int32(), "image_height": pa.int32(), "answers": TEXTS},
        **{"image_classes": TEXTS, "set_name": pa.string()},
    }
    for start, split in ((100, "train"), (200, "validation"), (300, "test")):
        rows = [
            {
                "question_id": start + at,
                "question": f"what does sign {start + at} say?",
                "image": image(start // 10 + at),
                "answers": [""] * 10 if split == "test" else [COLOURS[at]] * 10,
            }
            for at in range(COUNT)
        ]
        parquet(folder / "data" / f"{split}-00000-of-00001.parquet", columns, rows)
    return folder


def okvqa(folder: Path) -> Path:
    """As lmms-lab/OK-VQA, with a train split."""
    columns = {
        **{"question_id": pa.string(), "image": IMAGE, "question": pa.string(), "answers": TEXTS},
        **{"question_type": pa.string(), "answer_type": pa.string()},
    }
    for start, split in ((100, "train"), (200, "val2014")):
        rows = [
            {
                "question_id": str(start + at),
                "question": f"What is thing {start + at} made of?",
                "image": image(start // 10 + at),
                "answers": [COLOURS[at]] * 10,
                "question_type": "eight",
            }
            for at in range(COUNT)
        ]
        parquet(folder / "data" / f"{split}-00000-of-00001.parquet", columns, rows)
    return folder


def docvqa(folder: Path) -> Path:
    """As lmms-lab/DocVQA, which holds InfographicVQA too."""
    columns = {
        **{"questionId": pa.string(), "question": pa.string(), "question_types": TEXTS, "image": IMAGE},
        **{"docId": pa.int64(), "ucsf_document_id": pa.string(), "ucsf_document_page_no": pa.string()},
        **{"answers": TEXTS, "data_split": pa.string()},
    }
    for start, split in ((100, "train"), (200, "validation"), (300, "test")):
        hidden = split == "test"
        rows = [
            {
                "questionId": str(start + at),
                "question": f"What is the date of letter {start + at}?",
                "question_types": None if hidden else ["handwritten", "form"],
                "image": image(start // 10 + at),
                "answers": None if hidden else [f"March {at}", f"3/{at}"],
            }
            for at in range(COUNT)
        ]
        parquet(folder / "DocVQA" / f"{split}-00000-of-00001.parquet", columns, rows)
    parquet(folder / "InfographicVQA" / "test-00000-of-00001.parquet", columns, [])
    return folder


def chartqa(folder: Path) -> Path:
    """As HuggingFaceM4/ChartQA."""
    columns = {"image": IMAGE, "query": pa.string(), "label": TEXTS, "human_or_machine": pa.int64()}
    for start, split in ((100, "train"), (200, "val"), (150, "test")):
        rows = [
            {
                "query": f"How many in {start + at}?",
                "label": [str(at + 1)],
                "human_or_machine": at % 2,
                "image": image(start // 10 + at),
            }
            for at in range(COUNT)
        ]
        parquet(folder / "data" / f"{split}-00000-of-00001.parquet", columns, rows)
    return folder


MATHVISTA: list[dict[str, Any]] = [
    {"question": "Which?", "choices": ["3", "145°"], "answer": "145°", "answer_type": "text", "task": "geometry"},
    {"question": "How many?", "answer": "7", "answer_type": "integer", "unit": "years", "task": "figure"},
    {"question": "How much?", "answer": "1.2", "answer_type": "float", "precision": 1.0, "task": "figure"},
    {"question": "From when?", "answer": "[2012, 2013]", "answer_type": "list", "task": "figure"},
]


def mathvista(folder: Path) -> Path:
    """As AI4Math/MathVista."""
    about = pa.struct([("category", pa.string()), ("task", pa.string()), ("skills", TEXTS), ("img_height", pa.int64())])
    columns = {
        **{"pid": pa.string(), "question": pa.string(), "image": pa.string(), "decoded_image": IMAGE, "choices": TEXTS},
        **{"unit": pa.string(), "precision": pa.float64(), "answer": pa.string(), "question_type": pa.string()},
        **{"answer_type": pa.string(), "metadata": about, "query": pa.string()},
    }
    for split in ("testmini", "test"):
        rows = [
            {
                **{key: value for key, value in one.items() if key != "task"},
                "pid": str(at + 1),
                "image": f"images/{at + 1}.jpg",
                "decoded_image": image(at),
                "answer": one["answer"] if split == "testmini" else "",
                "question_type": "multi_choice" if "choices" in one else "free_form",
                "metadata": {"task": one["task"], "skills": ["a"]},
                "query": f"Hint: Please answer.\nQuestion: {one['question']}",
            }
            for at, one in enumerate(MATHVISTA)
        ]
        parquet(folder / "data" / f"{split}-00000-of-00001.parquet", columns, rows)
    return folder


MMMU: dict[str, list[dict[str, Any]]] = {
    "Accounting": [
        {"question": "<image 1> What is the cost?", "options": "['$6', '$7']", "answer": "B"},
        {"question": "Compare <image 1> and <image 2>.", "options": "['same', 'not the same']", "answer": "A"},
    ],
    "Art_Theory": [
        {"question": "Which one is older?", "options": "['<image 1>', 'the one in <image 2>']", "answer": "B"},
        {"question": "Name it.<image 1>", "options": "[]", "answer": "fresco", "question_type": "open"},
        {"question": "How high? <image 1>", "options": "[]", "answer": "['2', 'two']", "question_type": "open"},
    ],
}


def mmmu(folder: Path) -> Path:
    """As MMMU/MMMU: a folder a subject."""
    columns = {
        **{"id": pa.string(), "question": pa.string(), "options": pa.string(), "explanation": pa.string()},
        **{f"image_{at}": IMAGE for at in range(1, 8)},
        **{"img_type": pa.string(), "answer": pa.string(), "topic_difficulty": pa.string()},
        **{"question_type": pa.string(), "subfield": pa.string()},
    }
    for split in ("dev", "validation", "test"):
        for subject, asked in MMMU.items():
            rows = [
                {
                    "question_type": "multiple-choice",
                    **one,
                    "answer": "?" if split == "test" else one["answer"],
                    "id": f"{split}_{subject}_{at + 1}",
                    **{
                        f"image_{number}": image(10 * at + number)
                        for number in (1, 2)
                        if f"<image {number}>" in str(one)
                    },
                }
                for at, one in enumerate(asked)
            ]
            parquet(folder / subject / f"{split}-00000-of-00001.parquet", columns, rows)
    return folder


def mmbench_rows(split: str) -> list[dict[str, str]]:
    """Three questions, each with its rotations, as OpenCompass publishes them; the pictures of rotations by index."""
    rows = []
    for index, choices in ((11, ["cat", "dog"]), (12, ["one", "two", "three"]), (13, ["up", "down"])):
        for turn in range(len(choices)):
            turned = choices[turn:] + choices[:turn]
            rows.append(
                {
                    "index": str(turn * 1_000_000 + index),
                    "question": f"What is in {index}?",
                    "hint": "Look at the tail." if index == 11 else "",
                    **{letter: (turned[at] if at < len(turned) else "") for at, letter in enumerate("ABCD")},
                    "answer": "" if split == "test" else "ABC"[turned.index(choices[-1])],
                    "category": "counting" if index == 12 else "identity",
                    "image": base64.b64encode(png(index)).decode() if turn == 0 else str(index),
                    "l2-category": "fine",
                    "split": split,
                }
            )
    return rows


def table(path: Path, rows: Sequence[Mapping[str, str]], dialect: str = "excel-tab") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), dialect=dialect, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def mmbench(folder: Path) -> Path:
    """As OpenCompass publishes it."""
    for split in ("dev", "test"):
        table(folder / f"MMBench_{split.upper()}_EN_V11.tsv", mmbench_rows(split))
        table(folder / f"MMBench_{split.upper()}_CN_V11.tsv", mmbench_rows(split)[:1])
    return folder


def fairface(folder: Path) -> Path:
    """As HuggingFaceM4/FairFace: a folder a margin, labels as numbers of classes."""
    columns = {
        **{"image": IMAGE, "age": pa.int64(), "gender": pa.int64(), "race": pa.int64()},
        "service_test": pa.bool_(),
    }
    for start, margin in ((0, "0.25"), (100, "1.25")):
        for split in ("train", "validation"):
            rows = [
                {"image": image(start + at), "age": at, "gender": at % 2, "race": at, "service_test": False}
                for at in range(COUNT)
            ]
            parquet(folder / margin / f"{split}-00000-of-00001.parquet", columns, rows)
    return folder


def caption(at: int) -> str:
    return f"a {COLOURS[at]} kite flies over the {COLOURS[-at - 1]} house"


def coco(folder: Path) -> Path:
    """As Karpathy publishes it."""
    images = []
    for at in range(3 * COUNT):
        name = f"COCO_val2014_{at:012}.jpg"
        sentences = [{"raw": caption(at % COUNT), "tokens": [], "imgid": at, "sentid": 5 * at + n} for n in range(5)]
        images.append(
            {
                "filepath": "val2014",
                "filename": name,
                "imgid": at,
                "cocoid": 1000 + at,
                "split": ("test", "train", "restval")[at % 3],
                "sentids": [],
                "sentences": sentences,
            }
        )
        picture(folder / "val2014" / name, at)
    written(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return folder


def own(folder: Path) -> Path:
    """A file of one's own."""
    rows = [{"question": f"What is {at}?", "answers": [f"number {at}"], "id": f"q{at}"} for at in range(COUNT)]
    return written(folder / "questions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "chartqa": (chartqa, "test"),
    "coco": (coco, "test"),
    "docvqa": (docvqa, "validation"),
    "fairface": (fairface, "validation"),
    "mathvista": (mathvista, "testmini"),
    "mmbench": (mmbench, "dev"),
    "mmmu": (mmmu, "validation"),
    "okvqa": (okvqa, "validation"),
    "own": (own, ""),
    "textvqa": (textvqa, "validation"),
    "vqav2": (vqav2, "validation"),
}
"""For each benchmark what makes a folder of it, and a split whose answers are public."""
