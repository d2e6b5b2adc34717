"""Replicas on Ray Serve, two on CPUs: equal answers, one killed under load, clients that go, and the end."""

import base64
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from generate import tiny
from processor.pictures import encoded
from serve import server
from serve.command import chat, folder_of, post, running, status
from vlmlab import cli
from vlmlab.batch import Sample
from vlmlab.generate.decoding import sample
from vlmlab.serve import replicas

MARK = "VLMLAB_REPLICAS_TEST"
LONG = chat("hi", max_tokens=600, stream=True)
REPLICAS = pytest.mark.skipif(
    not (Path("/proc").is_dir() and all(importlib.util.find_spec(name) for name in ("ray", "grpc_reflection"))),
    reason="Ray Serve is not installed (pip install 'vlmlab[ray]'), or there is no /proc to find replicas in",
)


@dataclasses.dataclass
class Up:
    """A server of two replicas. Its processes have the mark in their environment."""

    process: object
    url: str
    mark: str

    def replicas(self):
        """The process ids of the replicas."""
        return sorted(pid for pid, line in marked(self.mark).items() if line.startswith("ray::ServeReplica"))

    def figures(self, name):
        """One figure of each replica, by the replica's name."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=60) as answer:
            page = answer.read().decode()
        found = re.findall(rf'^vlmlab_{name}{{replica="(\w+)"}} (\S+)$', page, re.MULTILINE)
        return {replica: float(value) for replica, value in found}

    def well(self):
        """How many replicas are well."""
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=60) as answer:
                return json.load(answer)["replicas"]["well"]
        except urllib.error.HTTPError as error:
            return json.load(error)["replicas"]["well"]


def marked(mark):
    """The command lines of the processes that have a mark in their environment."""
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            try:
                if f"{MARK}={mark}".encode() in (place / "environ").read_bytes():
                    found[int(place.name)] = (place / "cmdline").read_text()
            except OSError:
                continue
    return {pid: line for pid, line in found.items() if line}


def listening(processes):
    """The addresses, in hexadecimal as the system writes them, and the ports at which processes listen."""
    own = set()
    for process in processes:
        for line in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                own.add(str(line.readlink()))
    lines = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    found = [line[1].split(":") for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own]
    return [(address, int(port, 16)) for address, port in found]


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    folder = folder_of(server.engine(), tmp_path_factory)
    mark = secrets.token_hex(8)
    words = ["--ray", "--replicas", "2", "--rows", "8", "--context", "2048", "--drain", "20"]
    open_to_all = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # does not make it so
    with running(folder, *words, **{MARK: mark}, **open_to_all) as (process, url):
        yield Up(process, url, mark)
    until(lambda: not marked(mark), 30)


def reference(picture):
    return "data:image/png;base64," + base64.b64encode(encoded(picture, "PNG")).decode()


@functools.cache
def questions():
    """Requests, each with a picture and draws of its own, and what the engine answers to them without a server."""
    pictures = [tiny.picture(20 + at, 30, at) for at in range(12)]
    texts = [f"What is number {at}?" for at in range(12)]
    said = [
        Sample.from_messages(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}], images=[picture]
        )
        for text, picture in zip(texts, pictures, strict=True)
    ]
    answers = [answer.text for answer in server.engine().answers(said, 60, sample.Config(), seed=100)]
    assert len(set(answers)) == len(answers)
    asked = [
        {
            "model": "tiny-model",
            "temperature": 1,
            "seed": 100 + at,
            "max_tokens": 60,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": reference(picture)}},
                        {"type": "text", "text": text},
                    ],
                }
            ],
        }
        for at, (text, picture) in enumerate(zip(texts, pictures, strict=True))
    ]
    return list(zip(asked, [text.lstrip() for text in answers], strict=True))


def ask(url, asked):
    """What came of a request: the text, or None and what the error said. Anything else raises."""
    if not asked.get("stream"):
        try:
            return post(url + "/v1/chat/completions", asked)["choices"][0]["message"]["content"], ""
        except urllib.error.HTTPError as error:
            return None, json.load(error)["error"]["code"]
    request = urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            events = [line.removeprefix(b"data: ").strip() for line in answer if line.startswith(b"data: ")]
    except urllib.error.HTTPError as error:
        return None, json.load(error)["error"]["code"]
    if events[-1] != b"[DONE]":
        return None, json.loads(events[-1])["error"]["code"]
    pieces = [json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1]]
    return "".join(piece or "" for piece in pieces), ""


class Load:
    """Clients that ask one thing after another, until they are stopped."""

    def __init__(self, url, clients=4):
        questions()  # computed once, here
        self.url, self.over = url, threading.Event()
        self.right, self.errors, self.wrong = [], [], []
        self.threads = [threading.Thread(target=self._ask, args=(client,)) for client in range(clients)]

    def _ask(self, client):
        number = client
        while not self.over.is_set():
            asked, expected = questions()[number % len(questions())]
            try:
                text, error = ask(self.url, asked | {"stream": number % 3 == 0})
            except Exception as fault:  # silence, a broken line: what must not be
                self.wrong.append(repr(fault))
                continue
            if text is None:
                self.errors.append(error)
                time.sleep(0.2)
            else:
                (self.right if text == expected else self.wrong).append(text)
            number += 5

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(90)
        assert not any(thread.is_alive() for thread in self.threads)


@REPLICAS
def test_two_replicas_give_the_answers_of_one(up):
    assert up.well() == 2 and len(up.replicas()) == 2
    with Load(up.url) as load:
        until(lambda: len(load.right) >= 24 and min(up.figures("requests_finished_total").values()) > 0)
    assert load.wrong == [] and load.errors == []


@REPLICAS
def test_what_others_can_reach_asks_for_a_token(up):
    import grpc

    everywhere = {
        kind: [port for address, port in listening(processes) if not address.endswith("0100007F")]  # 127.0.0.1
        for kind, processes in (("replicas", up.replicas()), ("others", set(marked(up.mark)) - set(up.replicas())))
    }
    assert everywhere["others"] == [] and len(everywhere["replicas"]) == 2  # Ray Serve binds those as it likes
    for port in everywhere["replicas"]:
        for more in ((), (("authorization", "Bearer " + "0" * 64),)):
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=30, metadata=more)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@REPLICAS
def test_who_goes_away_is_not_written_for(up):
    before = sum(up.figures("requests_cancelled_total").values())
    asked = LONG | {"max_tokens": 1500}
    request = urllib.request.Request(
        up.url + "/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert b"assistant" in answer.readline()  # it streams: this came long before the end
    until(lambda: sum(up.figures("requests_cancelled_total").values()) == before + 1)


@REPLICAS
def test_a_replica_that_is_killed_under_load_costs_only_what_it_was_answering(up):
    killed, found = up.replicas()[0], []
    streams = [threading.Thread(target=lambda: found.append(ask(up.url, LONG))) for _ in range(6)]
    with Load(up.url) as load:
        until(lambda: len(load.right) >= 8)
        for stream in streams:
            stream.start()
        until(lambda: min(up.figures("requests_writing").values()) > 0)
        os.kill(killed, signal.SIGKILL)
        right = len(load.right)
        until(lambda: len(load.right) >= right + 12)  # traffic goes on
        until(lambda: killed not in up.replicas() and len(up.replicas()) == 2 and up.well() == 2)
        before = up.figures("requests_finished_total")
        until(lambda: all(count > before.get(name, 0) for name, count in up.figures("requests_finished_total").items()))
    for stream in streams:
        stream.join(60)
    errors = load.errors + [error for text, error in found if text is None]
    print(f"\n{len(load.right)} right answers, errors: {errors}")
    assert load.wrong == [] and len(found) == len(streams)
    assert {text for text, _ in found if text is not None} <= {server.offline("hi", 600).lstrip()}
    assert set(errors) == {"replica_lost"}
    assert len(load.errors) <= len(load.threads) and len(errors) < len(load.threads) + len(streams)


@REPLICAS
def test_what_is_under_way_ends_when_it_is_told_to_stop(up):
    found = []
    asking = threading.Thread(target=lambda: found.append(ask(up.url, LONG)))
    asking.start()
    until(lambda: sum(up.figures("requests_writing").values()))
    up.process.send_signal(signal.SIGTERM)
    until(lambda: status(up.url + "/health") == 503)
    asking.join(60)
    ((text, error),) = found
    assert error == "" and text == server.offline("hi", 600).lstrip()
    assert up.process.wait(60) == 0
    until(lambda: not marked(up.mark), 30)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--replicas", "2"], "--replicas and --ray-address are for --ray"),
        (["--ray-address", "auto"], "--replicas and --ray-address are for --ray"),
        (["--ray", "--replicas", "-1"], "--replicas must be 1 or more"),
        (["--ray", "--ray-address", "ray://here:1"], "--ray-address ray://here:1: Ray's client cannot stream"),
        (["--ray", "--device", "cuda:1"], "--device cuda:1: with --ray say cuda or cpu"),
        (["--ray", "--adapters-from", "."], "--adapters-from: with --ray an adapter would reach one replica alone"),
    ],
)
def test_what_cannot_be_is_said_by_name(words, says, capsys):
    assert cli.main(["serve", *words]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


class Resources:
    """What Ray says of a cluster of two machines."""

    def __init__(self, cpus, gpus):
        self.cpus, self.gpus = cpus, gpus

    def cluster_resources(self):
        return {"CPU": float(sum(self.cpus)), "GPU": float(self.gpus)}

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": float(count)}} for count in self.cpus]


@pytest.mark.parametrize(
    ("there", "wanted", "device", "gets"),
    [
        (Resources([16, 16], 4), 0, "", (4, "cuda", 8.0)),
        (Resources([16, 16], 4), 2, "", (2, "cuda", 16.0)),
        (Resources([4, 60], 4), 2, "", (2, "cuda", 4.0)),  # no more than the smaller machine has
        (Resources([16, 16], 4), 8, "cpu", (8, "cpu", 4.0)),
        (Resources([2], 0), 0, "", (1, "cpu", 2.0)),
        (Resources([2], 0), 4, "", (4, "cpu", 0.5)),
    ],
)
def test_what_a_replica_gets(there, wanted, device, gets, monkeypatch):
    monkeypatch.setattr(replicas, "_ray", lambda: there)
    assert replicas._shares(wanted, device) == gets


@pytest.mark.parametrize(("there", "wanted", "device"), [(Resources([2], 0), 0, "cuda"), (Resources([2], 2), 3, "")])
def test_more_replicas_than_gpus_are_refused(there, wanted, device, monkeypatch):
    monkeypatch.setattr(replicas, "_ray", lambda: there)
    with pytest.raises(ValueError, match=f"--replicas {wanted}: each needs a GPU, and Ray has {there.gpus}"):
        replicas._shares(wanted, device)


def test_without_ray_it_is_said(monkeypatch, capsys):
    for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")  # what the command sets is taken back after the test
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["serve", "--ray"]) == 2
    assert "--ray needs ray: pip install 'vlmlab[serve,ray]'" in " ".join(capsys.readouterr().err.split())
