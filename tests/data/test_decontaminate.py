"""Planted leaks are found, and little else is: recall and precision of 0.95 or more, for pictures and for text."""

import io
import random

import pytest
from PIL import Image

from data import corpora
from vlmlab import component
from vlmlab.batch import Message, Picture, Sample
from vlmlab.data.filters import FilterConfig, decontaminate
from vlmlab.data.sources import emoji


def built(**keys):
    return component.parse(FilterConfig, {"name": "decontaminate", **keys}).build()


def sample(*parts):
    return Sample((Message("text", tuple(parts)),))


def opened(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.source)).convert("RGB")


def encoded(image: Image.Image, kind: str, quality: int) -> Picture:
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return Picture(file.getvalue(), "a copy")


def cropped(image: Image.Image, generator: random.Random) -> Image.Image:
    """Up to 5 % cut from each side."""
    left, right = (generator.uniform(0, 0.05) * image.width for _ in range(2))
    top, bottom = (generator.uniform(0, 0.05) * image.height for _ in range(2))
    return image.crop((round(left), round(top), round(image.width - right), round(image.height - bottom)))


def resized(image: Image.Image, generator: random.Random) -> Image.Image:
    """Half to twice as large, not quite in proportion."""
    scale, stretch = generator.uniform(0.5, 2), generator.uniform(0.95, 1.05)
    return image.resize((max(1, round(image.width * scale * stretch)), max(1, round(image.height * scale))))


CHANGES = {
    "re-encoded": lambda image, generator: encoded(image, "JPEG", generator.randint(30, 90)),
    "resized": lambda image, generator: encoded(resized(image, generator), "PNG", 0),
    "cropped": lambda image, generator: encoded(cropped(image, generator), "PNG", 0),
    "all three": lambda image, generator: encoded(
        resized(cropped(image, generator), generator), "JPEG", generator.randint(40, 90)
    ),
}


@pytest.fixture(scope="module")
def scenes():
    """Scenes to measure on, and others of the same kind that are no copies of them."""
    return built(evaluation=[{"name": "scenes", "split": "test", "samples": 60, "side": 160}])


def test_recall_and_precision_on_scenes(scenes):
    held, others = (
        component.parse(decontaminate.SourceConfig, {"name": "scenes", "split": split, "side": 160}).build()
        for split in ("test", "train")
    )
    measured(scenes, [held[n].pictures[0] for n in range(60)], [others[n].pictures[0] for n in range(240)])


def test_recall_and_precision_on_emoji():
    """Pictures that are much alike, as drawings of the same things are."""
    held, train = (emoji.Emoji(emoji.Config(split=split)) for split in ("validation", "train"))
    rule = built(evaluation=[{"name": "emoji", "split": "validation"}])
    leaks = [held.pair(number).picture for number in range(0, len(held), 3)]
    others = [train.pair(number).picture for number in range(0, len(train), 12)]
    measured(rule, leaks, others)


def measured(rule, leaks, others):
    found = wrong = planted = 0
    for kind, change in CHANGES.items():
        generator = random.Random(kind)
        hits = sum(rule.why_not(sample(change(opened(picture), generator))) is not None for picture in leaks)
        assert hits >= 0.95 * len(leaks), f"{kind}: {hits} of {len(leaks)}"
        found, planted = found + hits, planted + len(leaks)
    # As many clean pictures as planted ones, so that precision means something; changed in the same ways.
    clean = [(picture, change) for picture in others for change in CHANGES.values()][:planted]
    generator = random.Random(0)
    wrong = sum(rule.why_not(sample(change(opened(picture), generator))) is not None for picture, change in clean)
    assert found / planted >= 0.95, f"recall {found}/{planted}"
    assert found / (found + wrong * planted / len(clean)) >= 0.95, f"{wrong} of {len(clean)} clean ones dropped"


def test_a_flat_picture_is_no_copy_of_another(tmp_path):
    (tmp_path / "a.png").write_bytes(corpora.png(200, 64))
    (tmp_path / "e.jsonl").write_text('{"text": "<image>", "images": ["a.png"]}\n')
    rule = built(evaluation=[{"name": "jsonl", "path": str(tmp_path / "e.jsonl")}])
    assert rule.why_not(sample(Picture(corpora.png(200, 64), "x"))) is None
    assert len(rule.held.hashes) == 0


def passages(generator, count, length):
    return [" ".join(generator.choice(VOCABULARY) for _ in range(length)) for _ in range(count)]


VOCABULARY = [f"{one}{two}" for one in ("ka", "lo", "mi", "nu", "pe") for two in ("ra", "so", "ti", "vu", "we", "xy")]


def test_recall_and_precision_on_text(tmp_path):
    generator = random.Random(0)
    held = passages(generator, 80, 40)
    lines = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]} for text in held
    ]
    rule = built(evaluation=[{"name": "jsonl", "path": str(corpora.as_lines(tmp_path / "e.jsonl", lines))}])
    leaks = []
    for text in held:
        words = text.split()
        for place in generator.sample(range(len(words)), 1):
            words[place] = "other"
        changed = ", ".join([" ".join(words[:20]).upper(), " ".join(words[20:])])
        leaks.append(" ".join([*passages(generator, 1, 30), changed + "!", *passages(generator, 1, 30)]))
    clean = passages(generator, 400, 100)
    found = [rule.why_not(sample(text)) for text in leaks]
    wrong = sum(rule.why_not(sample(text)) is not None for text in clean)
    assert sum(reason is not None and reason.kind == "text" for reason in found) >= 0.95 * len(leaks)
    assert wrong <= 0.05 * len(clean) * len(leaks) / len(clean)
    # The reason quotes the passage, and a question with its answer is one text.
    assert found[0].detail in " ".join(held[0].replace(",", " ").split())
    last = " ".join([*held[0].split()[-12:], "yes"])
    assert rule.why_not(sample(last)) is not None
    assert rule.why_not(sample(" ".join(last.split()[:12]))) is None


def asked(question, answer, *parts):
    return Sample((Message("user", (*parts, question)), Message("assistant", (answer,))))


def test_short_questions_leak_with_their_answers(tmp_path):
    shown = {"type": "image"}
    (tmp_path / "a.png").write_bytes(corpora.png(7, 64))
    lines = [
        {"messages": [{"role": "user", "content": "What is 37 + 58?"}, {"role": "assistant", "content": "95"}]},
        {
            "messages": [
                {"role": "user", "content": [shown, {"type": "text", "text": "How many red circles are there?"}]},
                {"role": "assistant", "content": "two"},
            ],
            "images": ["a.png"],
        },
    ]
    rule = built(evaluation=[{"name": "jsonl", "path": str(corpora.as_lines(tmp_path / "e.jsonl", lines))}])
    assert rule.why_not(asked("what is 37 +58", "95.")).kind == "text"
    longer = asked("Hello", "Hello!").messages + asked("What is 37 + 58?", "95").messages
    assert rule.why_not(Sample(longer)).kind == "text"
    assert rule.why_not(asked("What is 37 + 58?", "96")) is None
    assert rule.why_not(asked("How many red circles are there?", "two")) is None  # of another picture, it is true too
    assert rule.why_not(asked("What is 37 + 58?", "95", Picture(corpora.png(9, 64), "x"))) is None


def test_distances_count_bits():
    import numpy as np

    hashes = np.array([0, 1, 0xFF, (1 << 64) - 1], np.uint64)
    assert decontaminate.distances(hashes, 0).tolist() == [0, 1, 8, 64]
    assert decontaminate.distances(hashes, (1 << 64) - 1).tolist() == [64, 63, 56, 0]


def test_a_sample_of_an_evaluation_set_is_found_by_its_picture_alone(scenes):
    held = component.parse(decontaminate.SourceConfig, {"name": "scenes", "split": "test", "side": 160}).build()
    reason = scenes.why_not(sample(held[7].pictures[0]))
    assert reason.kind == "picture" and "scenes test 7 of seed 0" in reason.detail
