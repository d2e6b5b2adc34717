"""The front of a server of several replicas: what it keeps to itself, passes on, and says when a replica is lost."""

import asyncio
import contextlib
import http.client
import json
import threading

import pytest

from serve import server
from vlmlab.serve.front import Front, Lost, Replicas
from vlmlab.serve.media import Pictures, Policy
from vlmlab.serve.replicas import Replica
from vlmlab.serve.service import Limits, Service

KEY = "a-long-secret-key"
LIMITS = Limits(key=KEY, hosts=("127.0.0.1",), origins=("https://example.org",), body_bytes=4000, drain_seconds=1.0)
JSON = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}


class Local(Replicas):
    """One replica in this process; `then` happens after so many lists of its messages."""

    wanted = 2
    paths = ("/v1/chat/completions", "/health")

    def __init__(self, replica):
        self.replica, self.asked = replica, []
        self.after, self.then = None, None

    async def answer(self, scope, body):
        self.asked.append((scope, body))
        count = 0
        async with contextlib.aclosing(self.replica.answer(scope, body)) as told:
            async for messages in told:
                if messages:
                    if count == self.after:
                        await self.then()
                    count += 1
                    yield messages

    async def healths(self):
        return [self.replica.health()]

    async def figures(self):
        return {"one": self.replica.service.metrics.page().decode(), "two": "vlmlab_slots 3.0\n"}


async def lost():
    raise Lost("it ended")


@pytest.fixture(scope="module")
def local(decoders):
    def build():
        within = Limits(body_bytes=4000)
        return Service(server.engine(), (server.NAME,), within, Pictures(Policy(), decoders))

    replica = Replica(build)
    yield Local(replica)
    replica.service.close()


@pytest.fixture
def front(local):
    local.asked.clear()
    local.after = local.then = None
    found = Front(local, LIMITS)
    served = server.Served(found, found.app()).start()
    yield served
    served.stop()


def send(served, method, path, body=None, headers=JSON):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def chat(text, **more):
    return {"model": server.NAME, "messages": [{"role": "user", "content": text}], "temperature": 0} | more


def test_answers_are_those_of_the_model_and_what_the_front_sees_to_stays_there(front, local):
    status, _, told = send(front, "POST", "/v1/chat/completions", chat("hello", max_tokens=12))
    assert status == 200
    assert json.loads(told)["choices"][0]["message"]["content"] == server.offline("hello", 12).lstrip()
    ((scope, body),) = local.asked
    assert json.loads(body)["messages"][0]["content"] == "hello"
    assert KEY not in repr(scope) and scope["path"] == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (401, chat("hello"), {"Content-Type": "application/json"}),
        (403, chat("hello"), JSON | {"Host": "elsewhere.example"}),
        (413, chat("x" * 5000), JSON),
        (415, chat("hello"), JSON | {"Content-Type": "text/plain"}),
    ],
)
def test_what_the_limits_refuse_reaches_no_replica(front, local, status, body, headers):
    assert send(front, "POST", "/v1/chat/completions", body, headers)[0] == status
    assert local.asked == []


def test_errors_and_pages_are_the_applications_own(front):
    status, _, told = send(front, "POST", "/v1/chat/completions", chat("hello", max_tokens=10_000))
    assert status == 400 and json.loads(told)["error"]["code"] == "context_length_exceeded"
    assert send(front, "GET", "/nowhere")[0] == 404
    assert "/v1/chat/completions" in json.loads(send(front, "GET", "/openapi.json")[2])["paths"]


def test_a_stream_comes_in_pieces_and_ends(front):
    _, headers, told = send(front, "POST", "/v1/chat/completions", chat("hi", max_tokens=20, stream=True))
    assert headers["Content-Type"].startswith("text/event-stream") and told.endswith("data: [DONE]\n\n")
    assert told.count("data: ") > 15


def test_a_replica_that_is_lost_before_it_says_anything_is_an_error(front, local):
    local.after, local.then = 0, lost
    status, headers, told = send(front, "POST", "/v1/chat/completions", chat("hello", max_tokens=4))
    assert status == 503 and json.loads(told)["error"]["code"] == "replica_lost" and headers["Retry-After"] == "1"


def test_a_replica_that_is_lost_in_a_stream_is_an_event(front, local):
    local.after, local.then = 2, lost
    status, _, told = send(front, "POST", "/v1/chat/completions", chat("hello", max_tokens=100, stream=True))
    events = told.strip().split("\n\n")
    assert status == 200 and "chunk" in events[0]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "replica_lost"


def test_who_goes_away_is_not_written_for(front, local):
    gauges = local.replica.service.engine.gauges
    before = gauges().cancelled
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=30)
    body = json.dumps(chat("hello", max_tokens=400, stream=True))
    connection.request("POST", "/v1/chat/completions", body, JSON)
    answer = connection.getresponse()
    answer.readline()
    answer.close()
    connection.close()
    for _ in range(1000):
        if gauges().cancelled > before:
            return
        threading.Event().wait(0.01)
    raise AssertionError("it was written to the end")


def test_what_is_left_when_it_stops_is_told_so(front, local):
    waiting = threading.Event()

    async def forever():
        waiting.set()
        await asyncio.Event().wait()

    local.after, local.then = 0, forever
    found = []
    asking = threading.Thread(
        target=lambda: found.append(send(front, "POST", "/v1/chat/completions", chat("hello", max_tokens=4)))
    )
    asking.start()
    assert waiting.wait(10)
    front.stop()
    asking.join(10)
    assert found[0][0] == 503 and "stopping" in found[0][2]


def test_health_tells_of_the_replicas(front, local):
    status, _, told = send(front, "GET", "/health", headers={})
    told = json.loads(told)
    assert status == 200 and told["status"] == "ok" and told["model"] == server.NAME
    assert told["replicas"] == {"wanted": 2, "well": 1}


def test_without_a_replica_it_is_not_well(front, local, monkeypatch):
    async def none():
        return []

    monkeypatch.setattr(local, "healths", none)
    status, _, told = send(front, "GET", "/health", headers={})
    assert status == 503 and json.loads(told)["status"] == "no replica answers"


def test_figures_of_all_replicas_with_their_names(front):
    send(front, "POST", "/v1/chat/completions", chat("hello", max_tokens=4))
    _, _, told = send(front, "GET", "/metrics")
    assert 'vlmlab_slots{replica="one"} 4.0' in told and 'vlmlab_slots{replica="two"} 3.0' in told
    assert told.count("# TYPE vlmlab_slots gauge") == 1
    assert 'vlmlab_http_responses_total{path="/v1/chat/completions",status="200"} 1.0' in told
    assert 'vlmlab_requests_finished_total{replica="one"}' in told
    assert not [line for line in told.splitlines() if "http_responses" in line and "replica=" in line]
