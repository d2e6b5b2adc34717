"""WebSight's layout."""

import pytest

from data import corpora

PAGES = [f"<html>\n<body><h1>Page {at}</h1></body>\n</html>" for at in range(5)]


def parquet(folder, **changes):
    rows = [
        {"image": {"bytes": corpora.png(at), "path": None}, "text": page, "llm_generated_idea": "a page", **changes}
        for at, page in enumerate(PAGES)
    ]
    return corpora.parquet(folder / "train-00000.parquet", rows)


def test_screenshots_with_their_code(tmp_path):
    source = corpora.source("websight", path=parquet(tmp_path))
    assert len(source) == 5
    for at in (4, 0, 3):
        asked, answered = source[at].messages
        assert corpora.shade(source[at].pictures[0]) == at
        assert asked.role == "user" and asked.parts[1] == "Write the HTML of this page."
        assert answered.role == "assistant" and answered.parts == (PAGES[at],)
    document = corpora.source("websight", path=tmp_path / "*.parquet", question="")[2].messages[0]
    assert document.role == "text" and document.parts[1] == PAGES[2]


def test_a_row_without_code_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"00000\.parquet, row 2: column 'text' should be text"):
        corpora.source("websight", path=parquet(tmp_path, text=" "))[2]
