"""The guard: keys, names, sizes, kinds, slow clients, other sites' pages, overload, and what the logs hold."""

import contextlib
import http.client
import json
import logging
import re
import socket
import time

import pytest

from serve import server
from vlmlab.serve.media import Pictures, Policy
from vlmlab.serve.service import Limits

ORIGIN = "https://example.org"
KEY = "a-long-secret-key"


@pytest.fixture(scope="module")
def guarded(decoders):
    """A server with every limit set, and low."""
    limits = Limits(
        key=KEY,
        hosts=("127.0.0.1", "localhost", "[::1]"),
        origins=(ORIGIN,),
        body_bytes=20_000,
        body_seconds=0.6,
        head_seconds=0.6,
        stalled_seconds=0.6,
        at_once=3,
        drain_seconds=5.0,
    )
    with server.serving(Pictures(Policy(pictures=2), decoders), limits) as one:
        yield one


def send(served, method="POST", path="/v1/chat/completions", body=None, **headers):
    """Status, headers and body of an answer. Headers are given with underscores."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    data = json.dumps(chat("hello") if body is None else body) if method == "POST" else None
    if "Content-Type" not in told and data is not None:
        told["Content-Type"] = "application/json"
    with contextlib.closing(connection):
        connection.request(method, path, data, told)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def chat(text, **more):
    return {"model": server.NAME, "messages": [{"role": "user", "content": text}], "max_tokens": 4} | more


def bearer(key=KEY):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", ["", "wrong", KEY + "x", KEY[:-1], "ä" * 20])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate", "/", "/v1/models", "/metrics", "/info", "/no"])
def test_nothing_is_answered_without_the_key(guarded, path, key):
    method = "GET" if path in ("/v1/models", "/metrics", "/info", "/no") else "POST"
    headers = {"Authorization": f"Bearer {key}".encode().decode("latin-1")} if key else {}
    status, told, body = send(guarded, method, path, **headers)
    assert status == 401 and told["WWW-Authenticate"] == "Bearer"
    assert "key" in str(json.loads(body)["error"])


def test_with_the_key_it_is(guarded):
    assert send(guarded, **bearer())[0] == 200
    assert send(guarded, "GET", "/metrics", **bearer())[0] == 200
    assert send(guarded, "GET", "/health")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""])
def test_it_answers_under_its_own_names_only(guarded, host):
    """A page of another site whose name was made to lead here is not let in."""
    assert send(guarded, Host=host, **bearer())[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST:8000", "[::1]:8000"])
def test_and_under_those_it_does(guarded, host):
    assert send(guarded, Host=host, **bearer())[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_page_may_send_unasked_is_refused(guarded, kind):
    status, _, body = send(guarded, Content_Type=kind, **bearer())
    assert status == 415 and b"application/json" in body


def test_other_sites_are_told_nothing_but_those_listed(guarded, served):
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization"}
    assert "Access-Control-Allow-Origin" not in send(served, Origin=ORIGIN)[1]
    assert send(served, "OPTIONS", Origin=ORIGIN, **asked)[0] == 405
    for method, more in (("OPTIONS", asked), ("POST", bearer())):
        assert send(guarded, method, Origin=ORIGIN, **more)[1]["Access-Control-Allow-Origin"] == ORIGIN
        assert "Access-Control-Allow-Origin" not in send(guarded, method, Origin="https://evil.example", **more)[1]
    assert send(guarded, Origin=ORIGIN)[1]["Access-Control-Allow-Origin"] == ORIGIN, "errors can be read too"


def test_large_requests_are_refused_before_they_are_read(guarded):
    """By their length where they say it; else as soon as they are too long."""
    with open_line(guarded) as line:
        line.sendall(head("Content-Length: 20001"))
        assert answer(line).startswith(b"HTTP/1.1 413")
    with open_line(guarded) as line:
        line.sendall(head("Transfer-Encoding: chunked"))
        with contextlib.suppress(OSError):
            for _ in range(3):
                line.sendall(b"2000\r\n" + b" " * 0x2000 + b"\r\n")
        assert answer(line).startswith(b"HTTP/1.1 413")
    assert send(guarded, body=chat("x" * 19_000) | {"max_tokens": 1}, **bearer())[0] == 400, "a prompt of many tokens"


def test_more_pictures_than_allowed_are_refused(guarded):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    turn = {"role": "user", "content": [part] * 3}
    status, _, body = send(guarded, body=chat("") | {"messages": [turn]}, **bearer())
    assert status == 400 and b"3 pictures are more than the 2" in body


@pytest.mark.parametrize("sent", [b"", b"POST /v1/cha", b"POST / HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_who_does_not_say_what_it_wants_is_cut_off(guarded, sent):
    with open_line(guarded) as line:
        line.sendall(sent)
        assert answer(line) == b""


def test_who_drips_headers_is_cut_off(guarded):
    with open_line(guarded) as line, contextlib.suppress(OSError):
        began = time.monotonic()
        line.sendall(b"GET / HTTP/1.1\r\n")
        while time.monotonic() - began < 10:
            line.sendall(b"X-A: b\r\n")
            time.sleep(0.1)
        raise AssertionError("it was listened to for 10 s")


def test_who_drips_a_request_is_cut_off(guarded):
    with open_line(guarded) as line:
        line.sendall(head("Content-Length: 1000") + b" " * 10)
        assert answer(line).startswith(b"HTTP/1.1 408")


def test_who_does_not_read_is_cut_off(guarded):
    """The answer is larger than all buffers between; the line is cut, and the place is free again."""
    with open_line(guarded, receive=4096) as line:
        request = (
            b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            for _ in range(400):
                line.sendall(request)
        until(lambda: guarded.service.active == 0)
        until(lambda: not guarded.server.server_state.connections)


def test_one_too_many_is_told_to_come_again(guarded):
    """Before it is read, and before anything is computed for it."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(open_line(guarded)).sendall(head("Content-Length: 1000"))
        until(lambda: guarded.service.active == 3)
        status, headers, body = send(guarded, **bearer())
        assert status == 429 and int(headers["Retry-After"]) >= 1
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
    until(lambda: guarded.service.active == 0)
    assert send(guarded, **bearer())[0] == 200


def test_a_queue_that_is_full_says_when_to_come_again(decoders):
    with server.serving(Pictures(Policy(), decoders), rows=1, queue=1, capacity=4000) as served:
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
                stack.callback(connection.close)
                body = json.dumps(chat("x", max_tokens=3900, stream=True))
                connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                assert connection.getresponse().status == 200
                until(lambda: served.service.engine.gauges().rows)  # the first is written, so only the second waits
            status, headers, body = send(served)
            assert status == 429 and int(headers["Retry-After"]) >= 1 and b"waiting" in body
            status, _, body = send(served, path="/generate", body={"inputs": "x"})
            assert status == 429 and json.loads(body)["error_type"] == "overloaded"
        until(lambda: served.service.engine.gauges().cancelled == 2)
        assert send(served)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_is_not_written_for(served, stream):
    before = served.service.engine.gauges()
    with open_line(served) as line:
        body = json.dumps(chat("hi", max_tokens=480, stream=stream)).encode()
        line.sendall(head(f"Content-Length: {len(body)}", key=None) + body)
        if stream:
            assert line.recv(15).startswith(b"HTTP/1.1 200")
        until(lambda: served.service.engine.gauges().rows)
    until(lambda: served.service.engine.gauges().cancelled == before.cancelled + 1)
    until(lambda: served.service.active == 0)
    assert served.service.engine.gauges().written_tokens < before.written_tokens + 480


def test_logs_hold_nothing_that_a_client_wrote(decoders, caplog):
    secret = "xyzzy-plugh"
    url = f"http://{secret}.example.org/a.png"
    turn = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    bodies = [chat(secret), chat(secret, temperature=secret), chat("") | {"messages": [turn]}, {secret: secret}]

    def logged(limits):
        caplog.clear()
        with caplog.at_level(logging.DEBUG), server.serving(Pictures(Policy("public"), decoders), limits) as served:
            for body in bodies:
                send(served, body=body)
            send(served, "GET", f"/{secret}?{secret}")
            send(served, path="/generate", body={"inputs": f"![]({url}){secret}"})
        return caplog.text

    told = logged(Limits(drain_seconds=1.0))
    assert told.count("POST /v1/chat/completions") == 4 and "GET other 404" in told
    assert secret not in told
    assert logged(Limits(drain_seconds=1.0, log_prompts=True)).count(secret) > 2


def test_metrics_count_what_was_answered(served):
    def value(name):
        page = send(served, "GET", "/metrics")[2].decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))

    names = ("vlmlab_written_tokens_total", "vlmlab_first_token_seconds_count", "vlmlab_requests_finished_total")
    answered = 'vlmlab_http_responses_total{path="/v1/chat/completions",status="200"}'
    before = [value(name) for name in (*names, answered)]
    send(served)
    assert [value(name) for name in (*names, answered)] == [before[0] + 4, *(number + 1 for number in before[1:])]
    assert value("vlmlab_kv_tokens ") == 4 * 512 and value("vlmlab_slots ") == 4


def test_health_shows_the_certificate(served):
    status, _, body = send(served, "GET", "/health")
    told = json.loads(body)
    assert status == 200 and told["status"] == "ok" and told["model"] == server.NAME
    checks = ("holds", "processor", "positions", "logits", "first_tokens", "same_alone_and_in_company")
    assert all(told["certificate"][name] is True for name in checks)


def test_unknown_places_and_ways_are_told_as_errors(served):
    for method, path, status in [("GET", "/no", 404), ("POST", "/v1/embeddings", 404), ("GET", "/generate", 405)]:
        found, _, body = send(served, method, path)
        assert found == status and json.loads(body)["error"]
    for data, says in [("{", "not valid JSON"), ("[" * 100_000, "JSON|pars"), ("3", "the request"), ("{}", "model")]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)) as connection:
            connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
            told = connection.getresponse()
            assert told.status == 400, data[:10]
            assert re.search(says, json.loads(told.read())["error"]["message"])


@contextlib.contextmanager
def open_line(served, receive=None):
    with socket.socket() as line:
        if receive is not None:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        line.settimeout(20)
        line.connect(("127.0.0.1", served.port))
        yield line


def head(more, key=KEY):
    shown = "" if key is None else f"Authorization: Bearer {key}\r\n"
    kind = "Content-Type: application/json\r\n"
    return f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{shown}{kind}{more}\r\n\r\n".encode()


def answer(line):
    """All that comes before the line is cut."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while some := line.recv(65536):
            got += some
    return got


def until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
