"""Opt-out: pictures whose owners do not want them trained on, by address or by site.

Run it again when a list grows: the drops, listed by `sieve`, are the samples to take out.
"""

import dataclasses
import hashlib
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from vlmlab.batch import Picture, Sample
from vlmlab.data.filters import Filter, FilterConfig, Reason


@dataclasses.dataclass(frozen=True)
class Config(FilterConfig):
    """`lists` are text files with an address or a domain a line; what follows a `#` and a space is a comment.

    A domain stands for all that is below it: `example.org` for `images.example.org` too.
    """

    lists: tuple[Path, ...] = dataclasses.field(kw_only=True)

    def __post_init__(self) -> None:
        if not self.lists:
            raise ValueError("lists is empty: name a file of addresses and domains")


class OptOut(Filter):
    """Drops a sample one of whose pictures is listed."""

    def __init__(self, config: Config) -> None:
        """Reads the lists. Raises ValueError naming the line that is neither address nor domain."""
        self.addresses: set[str] = set()
        self.domains: set[str] = set()
        for path in config.lists:
            for number, entry in _entries(path.expanduser()):
                address = normal(entry)
                if address is not None:
                    self.addresses.add(address)
                elif _is_domain(entry):
                    self.domains.add(entry.casefold().removeprefix("*.").strip("."))
                else:
                    raise ValueError(f"{path}, line {number}: {entry!r:.80} is neither an address nor a domain")

    def fingerprint(self) -> str:
        """A hash of all that is listed."""
        listed = [*sorted(self.addresses), "", *sorted(self.domains)]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()

    def why_not(self, sample: Sample) -> Reason | None:
        """Reasons: `address`, `domain`."""
        for picture in sample.pictures:
            for address in filter(None, map(normal, _told(picture))):
                if address in self.addresses:
                    return Reason("address", address)
                host = address.partition("/")[0].rpartition(":")[0] or address.partition("/")[0]
                parts = host.split(".")
                for start in range(len(parts)):
                    if (domain := ".".join(parts[start:])) in self.domains:
                        return Reason("domain", f"{domain}: {address}")
        return None


def normal(address: str) -> str | None:
    """An http(s) address in one spelling: no scheme, the host in lower case, no fragment; None where it is none.

    Sites answer to both schemes with the same picture: an owner who lists one means both.
    """
    try:
        parts = urllib.parse.urlsplit(address.strip())
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host:
        return None
    usual = port in (None, {"http": 80, "https": 443}[parts.scheme])
    path = urllib.parse.unquote(parts.path) or "/"
    return f"{host}{'' if usual else f':{port}'}{path}{'?' + parts.query if parts.query else ''}"


def _told(picture: Picture) -> Iterator[str]:
    """Where a picture is from: what it is read from, and its name, which is its URL where it was fetched before."""
    if isinstance(picture.source, str):
        yield picture.source
    yield picture.name


def _entries(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"lists: cannot read {path}: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        entry = f" {line}".split(" #")[0].strip()
        if entry:
            yield number, entry


def _is_domain(text: str) -> bool:
    parts = text.removeprefix("*.").strip(".").split(".")
    return len(parts) > 1 and all(part and part.replace("-", "").isalnum() for part in parts)


PLUGIN = OptOut
