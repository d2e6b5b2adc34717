"""The connector that CONTRIBUTING.md shows is a whole and working file."""

import torch

from house import tree
from house.test_readme import blocks
from vlmlab import component
from vlmlab.batch import Images
from vlmlab.model.connectors import ConnectorConfig


def test_the_connector_of_the_page_works(tmp_path, monkeypatch):
    (code,) = blocks((tree.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), {"python"})
    (tmp_path / "package_of_the_page").mkdir()
    (tmp_path / "package_of_the_page" / "strips.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    config = component.parse(ConnectorConfig, {"name": "package_of_the_page.strips", "bias": False})
    connector = config.build(6, 10)
    images = Images(torch.randn(2 * 3 + 4 * 1, 5), torch.tensor([[2, 3], [4, 1]]))
    visual = connector(torch.randn(10, 6), images)
    assert visual.shape == (6, 10)
    assert connector.count(images.grid) == [2, 4]
    assert component.plain(config) == {"name": "package_of_the_page.strips", "bias": False}
