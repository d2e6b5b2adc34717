"""What vlmlab needs, all the way down, is free of GPL and AGPL, and of the packages we promised not to need.

The tree is walked from pyproject.toml through the metadata of what is installed here: run time and every extra.
Weak copyleft (LGPL, MPL: of a file or a library, not of what uses it) is allowed, and printed.
"""

import importlib.metadata
import importlib.util
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from house import tree

UNWANTED = {"torchvision", "open-clip-torch", "open-clip", "timm"}
ABSENT = {"torchao"}
"""Not installed for the tests: BSD-3-Clause, needs nothing; transformers imports it where it is, and prints errors."""
STRONG = re.compile(r"\bA?GPL|(?:GNU )?(?:Affero )?(?<!Lesser )(?<!Library )General Public License", re.IGNORECASE)
WEAK = re.compile(r"LGPL|Lesser General|Library General|\bMPL|Mozilla|\bEPL|Eclipse", re.IGNORECASE)


def declared() -> list[Requirement]:
    """The requirements of pyproject.toml: run time, then every extra."""
    project = tree.pyproject()["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


def needed(requirements: list[Requirement]) -> dict[str, importlib.metadata.Distribution]:
    """Every installed distribution that the requirements lead to, by canonical name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in ABSENT:
            continue
        fresh = {(name, wanted) for wanted in ["", *requirement.extras]} - seen
        seen |= fresh
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise AssertionError(f"{requirement} is needed and not installed") from error
        waiting += [(Requirement(line), wanted) for line in found[name].requires or [] for _, wanted in sorted(fresh)]
    return found


def licence(distribution: importlib.metadata.Distribution) -> str:
    """What a distribution says of itself: its SPDX expression, else its classifiers, else its licence field."""
    told = distribution.metadata
    if told["License-Expression"]:
        return told["License-Expression"]
    classifiers = [line.split(" :: ")[-1] for line in told.get_all("Classifier") or [] if line.startswith("License ::")]
    classifiers = [line for line in classifiers if line != "OSI Approved"]
    return " OR ".join(classifiers) or (told["License"] or "").strip().split("\n")[0]


def strong(text: str) -> bool:
    """Whether no alternative that a licence offers is free of GPL and AGPL. LGPL is not GPL."""
    alternatives = [part for part in re.split(r"\s+OR\s+", text) if part]
    return bool(alternatives) and all(STRONG.search(re.sub(r"LGPL\S*", "", part)) for part in alternatives)


@pytest.fixture(scope="module")
def packages() -> dict[str, importlib.metadata.Distribution]:
    return needed(declared())


def test_no_strong_copyleft_in_the_tree(packages):
    told = {name: licence(package) for name, package in packages.items()}
    weak = {name: text for name, text in sorted(told.items()) if WEAK.search(text)}
    print(f"\n{len(told)} packages, none GPL or AGPL; weak copyleft: {weak}")
    assert len(told) > 40
    tree.none_of([f"{name} does not say its licence" for name, text in told.items() if not text])
    tree.none_of([f"{name}: {text[:200]}" for name, text in told.items() if strong(text)])


def test_the_stack_is_the_one_we_promised(packages):
    assert not UNWANTED & {*packages, *(canonicalize_name(r.name) for r in declared())}
    for module in ("torchvision", "open_clip", "timm"):
        assert importlib.util.find_spec(module) is None, f"{module} is importable: it changes how transformers behaves"


def test_our_own_licence_travels_with_us():
    project = tree.pyproject()["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (tree.ROOT / "LICENSE").read_text(encoding="utf-8")
    assert all((tree.ROOT / name).is_file() for name in project["license-files"])


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("GPL-3.0-only", True),
        ("AGPL-3.0-or-later", True),
        ("GNU General Public License v2 (GPLv2)", True),
        ("GNU Affero General Public License v3", True),
        ("GNU Lesser General Public License v2 (LGPLv2) OR LGPLv2", False),
        ("LGPL-2.1-only", False),
        ("MIT OR GPL-2.0-or-later", False),
        ("MIT AND GPL-2.0-or-later", True),
        ("Apache-2.0", False),
    ],
)
def test_strong_copyleft_is_recognised(text, bad):
    assert strong(text) == bad
