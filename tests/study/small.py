"""A study of two connectors on a model of a few thousand weights and scenes of a few pixels, in seconds."""

from pathlib import Path

from train import tiny
from vlmlab.component import write_toml

SCENES = {"name": "scenes", "side": 32, "things": 2, "zoom": 2.0, "questions": 2, "chat": False}


def study(folder: Path, **changes) -> Path:
    """The study's file, its base recipe and tokenizer beside it."""
    base = tiny.recipe(
        folder,
        data={"name": "scenes", "samples": 24, **{k: v for k, v in SCENES.items() if k != "name"}},
        processor={"images": {"name": "square", "side": 16}},
        stage={"steps": 4, "batch": 4, "save_every": 2, "lr": 1e-3, "warmup": 1},
    )
    text = base.read_text(encoding="utf-8")
    start, _, _ = text.partition("[score]")
    base.write_text(start, encoding="utf-8")
    data = {
        "question": "Do more latents help?",
        "base": base.name,
        "reference": "two",
        "seeds": [0, 1],
        "budget": 5,
        "paper": {"where": "Table 4", "says": "No.", "findings": [4], "scores": {"128": 71.2, "64": 71.7}},
        "arms": {"two": ["model.connector.latents=2"], "three": ["model.connector.latents=3"]},
        "claims": [{"text": "three are like two", "kind": "alike", "arms": ["three", "two"]}],
        "evaluate": {"data": {**SCENES, "split": "test", "samples": 10}, "together": 4},
        **changes,
    }
    path = folder / "latents.toml"
    path.write_text("# Two or three latents.\n" + write_toml(data), encoding="utf-8")
    return path
