"""Your own data, a line each."""

import json

import pytest
from PIL import Image

from vlmlab.component import parse
from vlmlab.data.sources import SourceConfig


def source(tmp_path, *lines, name="data.jsonl", split="train"):
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return parse(SourceConfig, {"name": "jsonl", "path": str(tmp_path / name), "split": split}).build()


def test_lines_become_samples(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Wäs?"}]}]
    forms = [
        {"type": "image", "path": "a.png"},
        {"type": "image", "image": "a.png"},
        {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}},
        {"type": "image_url", "image_url": "a.png"},
    ]
    found = source(
        tmp_path,
        json.dumps(
            {"messages": [*asked, {"role": "assistant", "content": "x"}], "images": ["a.png"]}, ensure_ascii=False
        ),
        "",
        json.dumps({"text": "<image>A picture.", "images": ["a.png"]}),
        *(json.dumps({"messages": [{"role": "user", "content": [form]}]}) for form in forms),
    )
    assert len(found) == 6
    assert found[0].messages[0].parts[1] == "Wäs?" and found[0].messages[1].parts == ("x",)
    assert found[1].messages[0].role == "text"
    for at in range(6):
        assert found[at].pictures[0].source == str(tmp_path / "a.png")
    assert found[2] == found[2]
    with pytest.raises(IndexError):
        found[6]


def test_urls_and_plain_text_are_left_as_they_are(tmp_path):
    url, data = "https://example.org/a.png", "data:image/png;base64,AAAA"
    parts = [{"type": "image_url", "image_url": {"url": place}} for place in (url, data)]
    found = source(
        tmp_path,
        json.dumps({"messages": [{"role": "user", "content": ["so", *parts]}]}),
        json.dumps({"text": " as written\n"}),
    )
    assert [picture.source for picture in found[0].pictures] == [url, data]
    assert found[1].messages[0].parts == (" as written\n",)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "row 0: "),
        ("[]", "should be a JSON object"),
        ('{"text": "a", "messages": []}', "either `messages` or `text`"),
        ('{"text": "a", "image": "b"}', "unknown key 'image'"),
        ('{"text": "<image>"}', "1 <image> marks but 0 images"),
        ('{"text": "a", "images": "b"}', "list of paths"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "role 'robot'"),
        ('{"messages": {}}', "'messages' should be a list"),
        ('{"text": 7}', "`text` should be text"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, told):
    with pytest.raises(ValueError) as error:
        source(tmp_path, line)[0]
    assert told in str(error.value) and "data.jsonl, row 0" in str(error.value)


def test_a_missing_file_and_splits(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        source(tmp_path, "{}", name="gone.jsonl")
    with pytest.raises(ValueError, match="holds no samples"):
        source(tmp_path, "")
    (tmp_path / "data-test.jsonl").write_text('{"text": "a"}\n')
    assert len(source(tmp_path, "", name="data-{split}.jsonl", split="test")) == 1
