"""`vlmlab data`: figures of a source, its drops written and left out again, a sheet to check a filter by."""

import json

import numpy as np
import pytest
from PIL import Image

from data import corpora
from vlmlab import cli
from vlmlab.component import parse
from vlmlab.data.sources import SourceConfig
from vlmlab.writing import alone

RECIPE = """
[data]
name = "jsonl"
path = "{path}"

[filters.pictures]
least = 20

[filters.repeats]
least = 2

[stage]
of = "no interest here"
"""


@pytest.fixture
def recipe(tmp_path):
    """Ten samples, of which three are small, one says too little, and one is broken."""
    lines = []
    for number in range(10):
        side = 8 if number in (2, 5, 7) else 40
        Image.fromarray(np.full((side, side, 3), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
        text = "Hm" if number == 3 else f"This is picture number {number}"
        lines.append({"text": f"{text} <image>", "images": [f"{number}.png"]})
    (tmp_path / "9.png").unlink()
    path = corpora.as_lines(tmp_path / "mine.jsonl", lines)
    (tmp_path / "r.toml").write_text(RECIPE.format(path=path))
    return tmp_path / "r.toml"


def test_stats_of_a_recipe_and_of_a_source(recipe, tmp_path, capsys):
    out = tmp_path / "new" / "stats.json"
    assert cli.main(["data", "stats", str(recipe), "--out", str(out)]) == 0
    assert "jsonl: 10 of 10 samples" in capsys.readouterr().out
    told = json.loads(out.read_text())
    assert told["samples"] == 10 and told["absent"] == 1 and told["widths"]["least"] == 8
    assert told["made_by"]["command"] and told["data"]["name"] == "jsonl"
    again = ["data", "stats", "jsonl", f"data.path={tmp_path / 'mine.jsonl'}", "-n", "4", "--out", str(out)]
    assert cli.main(again) == 0
    assert json.loads(out.read_text())["looked"] == 4


def test_a_folder_in_which_another_process_works_is_left_alone(recipe, tmp_path, capsys):
    for words in (["filter", str(recipe)], ["build", "typeset", str(tmp_path)]):
        with alone(tmp_path / "out"):
            assert cli.main(["data", *words, str(tmp_path / "out")]) == 2
        assert "another process is at work there" in " ".join(capsys.readouterr().err.split())
    assert list((tmp_path / "out").iterdir()) == []


def test_drops_are_listed_and_left_out(recipe, tmp_path, capsys):
    assert cli.main(["data", "filter", str(recipe), str(tmp_path / "drops")]) == 0
    assert "5 of 10 samples kept" in capsys.readouterr().out
    told = json.loads((tmp_path / "drops" / "filter.json").read_text())
    assert told["dropped"] == {"pictures: too small": 3, "repeats: too short": 1, "unreadable: ValueError": 1}
    assert told["filters"]["pictures"]["least"] == 20 and told["made_by"]["version"]
    lines = [json.loads(line) for line in (tmp_path / "drops" / "drops.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [2, 3, 5, 7, 9]
    plain = {"name": "sieved", "drops": [str(tmp_path / "drops")]}
    data = {"name": "jsonl", "path": str(tmp_path / "mine.jsonl")}
    left = parse(SourceConfig, {**plain, "data": data}).build()
    assert [left[index].messages[0].parts[0] for index in range(5)] == [
        f"This is picture number {number} " for number in (0, 1, 4, 6, 8)
    ]


def test_filters_of_the_command_line(recipe, tmp_path, capsys):
    words = ["data", "filter", str(recipe), "--filters", "pictures", str(tmp_path / "a"), "filters.pictures.least=1"]
    assert cli.main(words) == 0
    assert "9 of 10 samples kept" in capsys.readouterr().out
    listed = tmp_path / "list.txt"
    listed.write_text("example.org\n")
    words = ["data", "filter", "scenes", str(tmp_path / "b"), "data.samples=3", "--filters", "opt_out"]
    assert cli.main([*words, f'filters.opt_out.lists=["{listed}"]']) == 0
    assert "3 of 3 samples kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["filter", "emoji", "out"], "no filter is named"),
        (["filter", "emoji", "out", "--filters", "nswf"], "no filters plug-in called 'nswf'; did you mean 'nsfw'?"),
        (["stats", "emojy"], "no sources plug-in called 'emojy'"),
        (["stats", "gone.toml"], "no such file: gone.toml"),
        (["stats", "emoji", "-n", "-1"], "--count must be 0 or more"),
        (["inspect", "emoji", "--filter", "pictures"], "gives no scores"),
        (["inspect", "emoji", "--filter", "nsfw,perplexity"], "name one filter"),
    ],
)
def test_what_is_wrong_is_said(words, told, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", *words]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_is_written(recipe, tmp_path, capsys, monkeypatch):
    from vlmlab.evaluate import perplexity

    def load(name):
        return lambda text, most: (float(text.split()[-1]) if "number" in text else 0.0, 5)

    monkeypatch.setattr(perplexity, "readers", lambda device: load)
    out = tmp_path / "sheets" / "p.html"
    words = ["data", "inspect", str(recipe), "--filter", "perplexity", "filters.perplexity.least=2", "-n", "9"]
    assert cli.main([*words, "filters.perplexity.share=0.25", "--out", str(out)]) == 0
    assert "of 9 samples dropped" in capsys.readouterr().out
    page = out.read_text()
    assert "What perplexity drops of jsonl" in page and "This is picture number" in page
