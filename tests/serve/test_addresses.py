"""Attack: reach into the network of the server, by an address in the URL or behind a name. Nothing is ever sent."""

import ipaddress
import socket
import time

import pytest

from serve.hostile import UNREACHABLE, Names, never, public, refused
from vlmlab import media
from vlmlab.serve import media as serve_media
from vlmlab.serve.decoders import Bounds, Decoders, Refused
from vlmlab.serve.media import Pictures, Policy, is_reachable


@pytest.fixture(scope="module")
def decoders():
    with Decoders(Bounds(processes=1)) as made:
        yield made


@pytest.fixture(autouse=True)
def no_connection(monkeypatch):
    """Whatever would be connected to is written down, and is not there."""
    tried = []

    def connect(address, *_):
        tried.append(address)
        raise ConnectionRefusedError("111 of the inside")

    monkeypatch.setattr(media.socket, "create_connection", connect)
    return tried


# What a name may lead to. Each is an address behind which something of the inside may stand.
BEHIND_NAMES = {
    "loopback": "127.0.0.1",
    "loopback elsewhere": "127.200.3.4",
    "this host": "0.0.0.0",
    "this network": "0.1.2.3",
    "private ten": "10.1.2.3",
    "private 172": "172.16.0.1",
    "private 172 end": "172.31.255.254",
    "private 192": "192.168.1.1",
    "metadata of clouds": "169.254.169.254",
    "metadata of containers": "169.254.170.2",
    "metadata of Alibaba": "100.100.100.200",
    "metadata of Oracle": "192.0.0.192",
    "metadata of Azure": "168.63.129.16",
    "link-local": "169.254.1.1",
    "carrier-grade NAT": "100.64.0.1",
    "carrier-grade NAT end": "100.127.255.254",
    "6to4 relay": "192.88.99.1",
    "benchmarking": "198.18.0.1",
    "documentation": "203.0.113.5",
    "multicast": "224.0.0.1",
    "multicast of a site": "239.255.255.250",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 loopback": "::1",
    "v6 unspecified": "::",
    "v6 link-local": "fe80::1",
    "v6 link-local with its zone": "fe80::1%eth0",
    "v6 site-local": "fec0::1",
    "v6 unique local": "fc00::1",
    "v6 metadata": "fd00:ec2::254",
    "v6 multicast": "ff02::1",
    "v6 documentation": "2001:db8::1",
    "v6 documentation, the newer": "3fff::1",
    "v6 benchmarking": "2001:2::1",
    "v6 discard": "100::1",
    "v6 segment routing": "5f00::1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped metadata": "::ffff:169.254.169.254",
    "mapped public": "::ffff:8.8.8.8",
    "compatible loopback": "::127.0.0.1",
    "6to4 loopback": "2002:7f00:1::",
    "6to4 private": "2002:a00:1::1",
    "6to4 public": "2002:808:808::1",
    "NAT64 loopback": "64:ff9b::7f00:1",
    "NAT64 metadata": "64:ff9b::a9fe:a9fe",
    "NAT64 of a site": "64:ff9b:1::808:808",
    "Teredo": "2001:0:808:808::f7f7:f7f7",
    "ISATAP": "2606:2800:220:1:0:5efe:a00:1",
    "ISATAP, its bit set": "2606:2800:220:1:200:5efe:a00:1",
}


@pytest.mark.parametrize("address", BEHIND_NAMES.values(), ids=BEHIND_NAMES)
def test_a_name_that_leads_inside(decoders, no_connection, address):
    names = Names(pictures_example=[[address]])
    told = refused(Pictures(public(), decoders, resolver=names), "http://pictures.example/a.png")
    assert told == UNREACHABLE
    assert names.looked_up == ["pictures.example"] and not no_connection


# How an address of the inside may be written in a URL. None is looked up: a resolver might read it as a number.
IN_URLS = {
    "plain": "127.0.0.1",
    "decimal": "2130706433",
    "decimal, too large for an address": "4294967297",
    "octal": "017700000001",
    "octal parts": "0177.0.0.1",
    "octal part at the end": "127.0.0.01",
    "octal with many zeros": "00000000177.0.0.1",
    "hexadecimal": "0x7f000001",
    "hexadecimal, capital": "0X7F000001",
    "hexadecimal parts": "0x7f.0x0.0x0.0x1",
    "mixed parts": "0x7f.0.1",
    "an empty hexadecimal": "127.0.0.0x",
    "short, two parts": "127.1",
    "short, three parts": "127.0.1",
    "zero": "0",
    "part over 255": "127.0.0.257",
    "trailing dot": "127.0.0.1.",
    "trailing dots": "127.0.0.1..",
    "wide digits": "１２７.０.０.１",
    "digits in circles": "①②⑦.⓪.⓪.①",
    "mathematical digits": "𝟏𝟐𝟕.𝟎.𝟎.𝟏",
    "ideographic dots": "127。0。0。1",
    "wide dots": "127．0．0．1",
    "wide dot at the end": "127.0.0.1．",
    "an invisible letter": "127.0.0\u200b.1",
    "a soft hyphen": "127.0.0.1\u00ad",
    "v6": "[::1]",
    "v6 in full": "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "v6 mapped": "[::ffff:127.0.0.1]",
    "v6 mapped, hexadecimal": "[::ffff:7f00:1]",
    "v6 mapped, capital": "[::FFFF:7F00:0001]",
    "v6 compatible": "[::7f00:1]",
    "v6 NAT64": "[64:ff9b::127.0.0.1]",
    "v6 6to4": "[2002:7f00:1::]",
}


@pytest.mark.parametrize("host", IN_URLS.values(), ids=IN_URLS)
def test_an_address_in_the_url(decoders, no_connection, host):
    told = refused(Pictures(public(), decoders, resolver=never), f"http://{host}/a.png")
    assert told == UNREACHABLE
    assert not no_connection


# URLs that mean one host to one reader and another to the next: refused before anything is looked up.
TWO_MEANINGS = {
    "user that looks like the host": "http://93.184.216.34@127.0.0.1/",
    "host that looks like the user": "http://127.0.0.1@pictures.example/",
    "user with a word": "http://user:word@pictures.example/",
    "empty user": "http://:@pictures.example/",
    "two users": "http://a@b@127.0.0.1/",
    "backslash": "http://pictures.example\\@127.0.0.1/",
    "backslash for a slash": "http:\\\\127.0.0.1/",
    "percent in the host": "http://127.0.0.%31/",
    "percent for the whole host": "http://%31%32%37.0.0.1/",
    "percent for a slash": "http://pictures.example%2f@127.0.0.1/",
    "percent for nothing": "http://127.0.0.1%00.pictures.example/",
    "zone": "http://[fe80::1%25eth0]/",
    "space": "http://127.0.0.1 .pictures.example/",
    "tab": "http://pictures.example\t@127.0.0.1/",
    "line": "http://pictures.example/\r\nHost: 127.0.0.1",
    "nothing": "http://pictures.example/\0",
    "wide slash": "http://pictures.example／@127.0.0.1/",
    "wide at": "http://pictures.example＠127.0.0.1/",
    "care of": "http://pictures.example℀127.0.0.1/",
    "no host": "http:///127.0.0.1/",
    "only a dot": "http://./",
    "only a port": "http://:80/",
    "half a v6": "http://[::1/",
    "brackets around a name": "http://[localhost]/",
    "port of letters": "http://pictures.example:http/",
    "port beyond the last": "http://pictures.example:65616/",
    "negative port": "http://pictures.example:-80/",
    "wide port": "http://pictures.example:８０/",
    "half a letter": "http://pictures.example/\ud800",
    "very long": "http://pictures.example/" + "a" * 10_000,
}


@pytest.mark.parametrize("url", TWO_MEANINGS.values(), ids=TWO_MEANINGS)
def test_a_url_with_two_meanings(decoders, no_connection, url):
    told = refused(Pictures(public(), decoders, resolver=never), url)
    assert told.startswith("picture 1: ")
    assert "127" not in told and "pictures.example" not in told
    assert not no_connection


def test_names_of_this_machine(decoders, no_connection):
    """As the system itself resolves them."""
    for host in ("localhost", "LOCALHOST", "localhost.", "ⓛocalhost", "local\u00adhost", socket.gethostname()):
        assert refused(Pictures(public(), decoders), f"http://{host}/") == UNREACHABLE
    assert not no_connection


def test_one_address_of_the_inside_among_others_is_enough(decoders, no_connection):
    names = Names(pictures_example=[["93.184.216.34", "10.0.0.1"]])
    assert refused(Pictures(public(), decoders, resolver=names), "http://pictures.example/") == UNREACHABLE
    assert not no_connection


def test_an_address_of_this_machine_on_the_open_internet(decoders, no_connection, monkeypatch):
    """A firewall may keep others from what listens there; it does not keep the machine itself."""
    names = Names(pictures_example=[["93.184.216.34"]])
    monkeypatch.setattr(serve_media, "_is_own", lambda address: str(address) == "93.184.216.34")
    assert refused(Pictures(public(), decoders, resolver=names), "http://pictures.example/") == UNREACHABLE
    assert not no_connection


def test_which_addresses_are_this_machines_own():
    assert serve_media._is_own(ipaddress.ip_address("127.0.0.1"))
    assert not serve_media._is_own(ipaddress.ip_address("93.184.216.34"))
    assert not serve_media._is_own(ipaddress.ip_address("2606:2800:220:1::1"))


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_addresses_that_may_be_reached(decoders, no_connection, address):
    assert is_reachable(ipaddress.ip_address(address))
    names = Names(pictures_example=[[address]])
    assert refused(Pictures(public(), decoders, resolver=names), "http://pictures.example/") == UNREACHABLE
    assert no_connection == [(address, 80)]  # and nobody was there


def test_no_more_than_a_few_doors_are_knocked_at(decoders, no_connection):
    many = [f"93.184.{part}.34" for part in range(200)]
    names = Names(pictures_example=[many])
    assert refused(Pictures(public(), decoders, resolver=names), "http://pictures.example/") == UNREACHABLE
    assert len(no_connection) == 4


def test_refused_unknown_and_silent_hosts_are_told_alike(decoders):
    """Nobody learns from the answers which names and addresses there are inside."""
    names = Names(
        database_internal=[["10.0.0.5"]], public_example=[["93.184.216.34"]], empty_example=[[]], odd_example=[["::1"]]
    )
    pictures = Pictures(public(), decoders, resolver=names)
    urls = [f"http://{host}/" for host in ("database.internal", "public.example", "empty.example", "odd.example")]
    urls += ["http://unknown.internal/", "http://10.0.0.5/", "http://2130706433/", "http://[fd00::1]/"]
    assert {refused(pictures, url) for url in urls} == {UNREACHABLE}


def test_whoever_runs_the_server_can_learn_the_reason(decoders):
    """It is the cause of what is told: the message that strangers see does not hold it."""
    names = Names(database_internal=[["10.0.0.5"]])
    with pytest.raises(Refused) as caught:
        Pictures(public(), decoders, resolver=names).get(["http://database.internal/a.png"])
    assert "database.internal is not on the open internet (10.0.0.5)" in str(caught.value.__cause__)


def test_a_resolver_that_is_slow_is_no_sign_either(decoders, monkeypatch):
    def slow(host, port):
        time.sleep(0.5)
        return ["93.184.216.34"]

    pictures = Pictures(public(seconds=0.1), decoders, resolver=slow)
    assert refused(pictures, "http://pictures.example/") == UNREACHABLE


def test_urls_are_off_unless_allowed(decoders, no_connection):
    told = refused(Pictures(None, decoders, resolver=never), "https://pictures.example/a.png")
    assert told == "picture 1: pictures are not fetched from URLs here; send the picture itself, as a data URL"
    assert Policy().urls == "off" and not no_connection


LISTED = Policy(urls="listed", hosts=("Pictures.Example", "bücher.example"), ports=(443, 8443))


@pytest.mark.parametrize(
    "host",
    [
        *["pictures.example.evil.example", "evilpictures.example", "a.pictures.example", "example", "pictures"],
        *["93.184.216.34", "pictures.example@evil.example", "evil.example#pictures.example", "pictures.example:444"],
        *[
            "pictures.example:80",
            "pictures.example:22",
            "evil.example?pictures.example",
            "evil.example/pictures.example",
        ],
        *["pictures。example.evil.example", "pіctures.example", "pictures.example%2eevil.example"],
    ],
)
def test_a_host_that_is_not_listed(decoders, host):
    told = refused(Pictures(LISTED, decoders, resolver=never), f"https://{host}/a.png")
    assert told != UNREACHABLE


@pytest.mark.parametrize(
    "host", ["pictures.example", "PICTURES.example", "pictures.example.", "pictures。example", "BÜCHER.example"]
)
def test_a_listed_host_however_it_is_spelled(decoders, no_connection, host):
    names = Names(pictures_example=[["93.184.216.34"]])
    names.answers["xn--bcher-kva.example"] = names.answers["pictures.example"]
    assert refused(Pictures(LISTED, decoders, resolver=names), f"https://{host}:8443/") == UNREACHABLE
    assert no_connection == [("93.184.216.34", 8443)]


def test_a_listed_host_must_not_lead_inside(decoders, no_connection):
    names = Names(pictures_example=[["10.0.0.1"]])
    assert refused(Pictures(LISTED, decoders, resolver=names), "https://pictures.example/") == UNREACHABLE
    assert names.looked_up and not no_connection


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"urls": "listed"}, "hosts are named"),
        ({"hosts": ("a.example",)}, "hosts are named"),
        ({"urls": "public", "hosts": ("a.example",)}, "hosts are named"),
        ({"urls": "listed", "hosts": ("https://a.example",)}, "without scheme"),
        ({"urls": "listed", "hosts": ("a.example:80",)}, "without scheme"),
        ({"urls": "listed", "hosts": ("*.example",)}, "stars"),
        ({"urls": "listed", "hosts": ("",)}, "no host"),
        ({"pictures": 0}, "budget"),
        ({"seconds": 0.0}, "budget"),
        ({"redirects": -1}, "budget"),
        ({"decoding": Bounds(memory=1 << 28)}, r"decoding\.memory"),
    ],
)
def test_a_policy_that_contradicts_itself(changes, told):
    with pytest.raises(ValueError, match=told):
        Policy(**changes)
