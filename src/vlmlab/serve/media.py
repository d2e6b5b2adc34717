"""Pictures that requests name: data URLs, and URLs as far as a policy allows; got, checked and decoded, or refused.

Strangers write the requests. What they are told, in Refused, is meant for them: it numbers the picture, and says the
same of every address that is refused, unknown or silent. `docs/security.md` says what is promised and what is not.
"""

import dataclasses
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Sequence
from typing import Literal

from vlmlab import media
from vlmlab.batch import Picture
from vlmlab.serve.decoders import Bounds, Busy, Decoders, Gate, Refused

__all__ = ["Busy", "Pictures", "Policy", "Refused", "is_reachable"]

_BYTES_A_PIXEL = 32
"""What decoding takes at most: 16-bit grey is computed in whole numbers of eight bytes, three arrays of them."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """What requests may name, and what their pictures may cost.

    `urls`: `off`, `listed` (those of `hosts`, by their whole names) or `public` (any host of the open internet); a host
    that is listed must be of the open internet all the same. `ports` and `redirects` (how many, each checked like the
    first URL) hold for both. `seconds` is for everything a request's pictures wait for: turns, look-ups, servers;
    decoding has its own bounds. `bytes` and `pixels` are for each picture, `_in_all` for those of one request.
    """

    urls: Literal["off", "listed", "public"] = "off"
    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    redirects: int = 3
    fetches: int = 16
    waiting: int = 64
    seconds: float = 15.0
    pictures: int = 16
    bytes: int = 20 << 20
    bytes_in_all: int = 64 << 20
    pixels: int = 40_000_000
    pixels_in_all: int = 160_000_000
    decoding: Bounds = dataclasses.field(default_factory=Bounds)

    def __post_init__(self) -> None:
        """Raises ValueError for what contradicts itself."""
        if (self.urls == "listed") != bool(self.hosts):
            raise ValueError('hosts are named where urls is "listed", and only there')
        for host in self.hosts:
            if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+", media.host_name(host)):
                raise ValueError(f"hosts: {host!r} is no host's name; give it without scheme, port, path or stars")
        counts = (self.fetches, self.pictures, self.bytes, self.bytes_in_all, self.pixels, self.pixels_in_all)
        if min(counts) < 1 or self.seconds <= 0 or self.redirects < 0 or self.waiting < 0:
            raise ValueError("pictures need a budget of 1 or more of everything (redirects and waiting may be 0)")
        if self.decoding.memory < _BYTES_A_PIXEL * self.pixels:
            raise ValueError(
                f"decoding.memory: {self.pixels} pixels can take {_BYTES_A_PIXEL * self.pixels} bytes to decode; "
                "allow that, or fewer pixels"
            )


def is_reachable(address: media.Address) -> bool:
    """Whether a server may connect to an address for a stranger.

    It is of the open internet, does not wrap an IPv4 address (but for NAT64's, which IPv6 networks need for half of the
    internet), and is none of this machine's own: those reach what a firewall keeps from everybody else.
    """
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.sixtofour):
        return False
    return media.is_public(address) and not _is_own(address)


def _is_own(address: media.Address) -> bool:
    """Whether an address is one of this machine's: only those can be bound to. Nothing is sent."""
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


class Pictures:
    """Gets the pictures of requests, as a policy allows. Any thread may ask.

    It starts processes that decode, and `close` ends them; or it is given `decoders`, and leaves them to their owner.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        decoders: Decoders | None = None,
        *,
        resolver: media.Resolve = media.resolve,
        allowed: Callable[[media.Address], bool] = is_reachable,
    ) -> None:
        self.policy = policy or Policy()
        self._owned = decoders is None
        self.decoders = Decoders(self.policy.decoding) if decoders is None else decoders
        self._hosts = {media.host_name(host) for host in self.policy.hosts}
        # This bounds threads that wait for the system's resolver too: it may outlast a fetch, by its own time limit.
        self._gate = Gate(self.policy.fetches, self.policy.waiting, "pictures to fetch")
        self._resolver, self._allowed = resolver, allowed

    def get(self, references: Sequence[str]) -> list[Picture]:
        """The pictures that a request names, decoded, in its order; they are called `picture 1` and so on.

        Raises Refused at the first that is not taken, and Busy where there are too many requests.
        """
        policy = self.policy
        if len(references) > policy.pictures:
            raise Refused(f"{len(references)} pictures are more than the {policy.pictures} a request may have")
        end = time.monotonic() + policy.seconds
        bytes_left, pixels_left = policy.bytes_in_all, policy.pixels_in_all
        pictures = []
        for number, reference in enumerate(references, 1):
            name = f"picture {number}"
            data = self._read(reference, name, min(policy.bytes, bytes_left), end)
            bytes_left -= len(data)
            image = self.decoders.decode(data, name, min(policy.pixels, pixels_left), end)
            pixels_left -= image.width * image.height
            pictures.append(Picture(image, name))
        return pictures

    def close(self) -> None:
        """End the processes that were started here."""
        if self._owned:
            self.decoders.close()

    def __enter__(self) -> "Pictures":
        """Itself; leaving closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, reference: str, name: str, most: int, end: float) -> bytes:
        """The bytes of a picture's file. Raises Refused and Busy."""
        scheme = reference[:8].lower()
        try:
            if scheme.startswith("data:"):
                data = media.read_data_url(reference, most)
                if not media.looks_like_a_picture(data):
                    raise ValueError("what the data URL holds is not a picture")
                return data
            if not scheme.startswith(("http://", "https://")):
                raise ValueError("only data URLs and http(s) URLs name a picture here")
            if self.policy.urls == "off":
                raise ValueError("pictures are not fetched from URLs here; send the picture itself, as a data URL")
            return self._fetch(reference, most, end)
        except media.NotFetched as error:
            raise Refused(f"{name}: {error.told}") from error  # the whole of it, for whoever runs the server
        except ValueError as error:
            raise Refused(f"{name}: {error}") from None

    def _fetch(self, url: str, most: int, end: float) -> bytes:
        with self._gate.passing(end):
            left = end - time.monotonic()
            if left <= 0:
                raise ValueError(media.LATE)
            limits = media.Limits(left, most, self.policy.redirects)
            return media.fetch(url, limits, resolver=self._resolver, allowed=self._allowed, admits=self._admits)

    def _admits(self, host: str, port: int) -> bool:
        return port in self.policy.ports and (self.policy.urls == "public" or host in self._hosts)
