"""A served model: what is sent, what is made of what comes back, what is asked again, and where the key never goes."""

import base64
import contextlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import PIL.Image
import pytest

from evaluate import questions
from vlmlab import cli
from vlmlab.evaluate.answering import Job, Writing
from vlmlab.evaluate.evaluation import Asking
from vlmlab.evaluate.known import Known
from vlmlab.evaluate.served import Patience, Served

SECRET = "sk-very-secret"
WRITING = Writing(8, ("User", "Question"))


def said(text, **more):
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop", **more}]}).encode()


@contextlib.contextmanager
def server(answer):
    """A server at an address; `answer(number, body)` is the status, the body and the headers of each reply."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, dict(self.headers), body))
            told = answer(len(seen) - 1, body)
            status, whole, headers = told if isinstance(told, tuple) else (200, told, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(whole)

        def log_message(self, *words):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/v1", seen
    finally:
        listening.shutdown()
        listening.server_close()


def one(address, rest=lambda seconds: None, **changes):
    """The reply to one question with a picture."""
    settings = {"served": "m", "secret": SECRET, "patience": Patience(timeout=5.0, tries=3), "rest": rest, **changes}
    benchmark = questions.config(one.path).build()
    job = Job(0, "0", benchmark.ask(benchmark.question(0)))
    (reply,) = [reply for _, reply in Served(address, **settings).answers([job], WRITING)]
    return reply


@pytest.fixture(autouse=True)
def path(tmp_path):
    one.path = questions.file(tmp_path, 6)
    return one.path


def test_a_question_goes_out_as_a_conversation_with_its_picture(path):
    with server(lambda number, body: said(" B. ")) as (address, seen):
        assert one(address + "/").text == " B. "
    ((place, headers, body),) = seen
    assert place == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {SECRET}"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 8)
    assert body["stop"] == ["User", "Question"]
    ((picture, words),) = [message["content"] for message in body["messages"]]
    assert words == {"type": "text", "text": "Question: What is 0?\nGive a very brief answer."}
    kind, _, data = picture["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == (path.parent / "0.png").read_bytes()


def test_files_that_servers_do_not_read_are_sent_as_png(path):
    held = io.BytesIO()
    PIL.Image.open(path.parent / "0.png").save(held, "BMP")
    (path.parent / "0.png").write_bytes(held.getvalue())
    with server(lambda number, body: said("x")) as (address, seen):
        one(address)
    url = seen[0][2]["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("body", "text", "reason", "error"),
    [
        (said("4 User: and"), "4 ", "stop", ""),
        (said("4", finish_reason="length"), "4", "length", ""),
        (said(None), "", "end", ""),
        (said(["4"]), "", "", "the answer is no text"),
        (b"{}", "", "", "cannot be read"),
        (b"\xff<html>", "", "", "cannot be read"),
        (b'{"choices": []}', "", "", "cannot be read"),
        (b'{"choices": 3}', "", "", "cannot be read"),
        (b"[" * 100_000, "", "", "cannot be read"),
        (b" " * (9 << 20), "", "", "more than"),
    ],
)
def test_what_comes_back_is_read_with_care(body, text, reason, error):
    with server(lambda number, sent: body) as (address, _):
        reply = one(address)
    assert (reply.text, reply.reason) == (text, reason) and error in reply.error and bool(error) == bool(reply.error)


def test_what_fails_for_a_while_is_asked_again_later_and_later():
    rests = []
    replies = [(503, b"busy", {}), (429, b"slow", {"Retry-After": "7"}), (200, said("4"), {})]
    with server(lambda number, body: replies[number]) as (address, seen):
        assert one(address, rests.append).text == "4"
    assert len(seen) == 3 and 0.5 <= rests[0] <= 1 and rests[1] == 7


def test_what_fails_for_good_is_an_error_of_the_question():
    rests = []
    with server(lambda number, body: (500, b"out of memory", {})) as (address, seen):
        reply = one(address, rests.append)
    assert "says 500: out of memory" in reply.error and len(seen) == 3 and rests[0] < rests[1] <= 2
    with server(lambda number, body: (400, b"too long", {})) as (address, seen):
        assert "says 400: too long" in one(address).error
    assert len(seen) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_question_would_get_ends_the_run_without_the_key(status):
    told = f"who is {SECRET}?".encode()
    with server(lambda number, body: (status, told, {})) as (address, _), pytest.raises(ValueError) as caught:
        one(address)
    assert f"says {status}: who is (the key)?" in str(caught.value)


def test_the_key_goes_nowhere_else():
    with server(lambda number, body: said("x")) as (other, stolen):
        moved = (307, b"", {"Location": f"{other}/chat/completions"})
        with server(lambda number, body: moved) as (address, _), pytest.raises(ValueError, match="says 307"):
            one(address)
    assert stolen == []


def test_many_are_asked_at_once_but_no_more_than_is_said(path, tmp_path):
    lock, now = threading.Lock(), {"at once": 0, "most": 0}
    both = threading.Barrier(3)

    def answer(number, body):
        with lock:
            now["at once"] += 1
            now["most"] = max(now["most"], now["at once"])
        both.wait(10)
        with lock:
            now["at once"] -= 1
        return said(body["messages"][0]["content"][1]["text"].split("?")[0].split()[-1])

    with server(answer) as (address, seen), Known(tmp_path / "a.jsonl") as known:
        asking = Asking(questions.config(path).build(), Served(address, "m", parallel=3), WRITING)
        asking.answer(known)
        assert [record.answer for record in asking.records(known)] == [str(n) for n in range(6)]
    assert len(seen) == 6 and now["most"] == 3
    assert SECRET not in (tmp_path / "a.jsonl").read_text()


def test_errors_are_counted_and_asked_again_the_next_time(path, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SOME_KEY", SECRET)
    out = tmp_path / "run"
    words = [f"own={path}", "--key-variable", "SOME_KEY", "--out", str(out), "--parallel", "1"]
    replies = iter([(400, b"no", {}), *[said(str(n)) for n in range(1, 6)], said("0")])
    with server(lambda number, body: next(replies)) as (address, _):
        assert cli.main(["eval", f"{address}#m", *words]) == 0
        assert "16.7% of the questions got an error for an answer and count as wrong" in capsys.readouterr().out
        assert cli.main(["eval", f"{address}#m", *words]) == 0
    assert "mind" not in capsys.readouterr().out
    card = json.loads((out / "own" / "card.json").read_text())
    assert card["score"]["value"] == 100 and card["shares"]["errors"] == 0 and card["visual_tokens"] is None
    assert all(SECRET not in file.read_text() for file in out.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("address", "more", "told"),
    [
        ("http://", {}, "is no address"),
        ("http://user:pass@example.org/v1", {}, "^example.org/v1 is no address"),
        ("http://example.org/v1", {"served": ""}, "write http://example.org/v1#NAME"),
        ("http://example.org/v1", {"secret": "a b"}, "without spaces"),
    ],
)
def test_what_is_no_address_is_said(address, more, told):
    with pytest.raises(ValueError, match=told):
        one(address, **more)


def test_what_a_server_cannot_do_is_said(path):
    served = Served("http://127.0.0.1:1/v1", "m")
    with pytest.raises(ValueError, match="its server's affair"):
        list(served.answers([], Writing(8, split=True)))
    benchmark = questions.config(path, form="document").build()
    with pytest.raises(ValueError, match="question 0: a served model is asked in conversation"):
        list(served.answers([Job(0, "0", benchmark.ask(benchmark.question(0)))], WRITING))


def test_a_server_that_is_not_there_ends_the_run_after_one_questions_patience(path):
    with server(lambda number, body: b"") as (address, _):
        pass
    rests = []
    answerer = Served(address, "m", patience=Patience(timeout=5.0, tries=3), rest=rests.append, parallel=1)
    benchmark = questions.config(path).build()
    jobs = [Job(n, str(n), benchmark.ask(benchmark.question(n))) for n in range(6)]
    with pytest.raises(ValueError, match=r"does not answer: .*; is the server there"):
        list(answerer.answers(jobs, WRITING))
    assert 2 <= len(rests) <= 6  # of the first question, and of the one that was on its way


def test_a_server_that_goes_is_an_error_of_the_questions_that_it_misses(path):
    benchmark = questions.config(path).build()
    jobs = [Job(n, str(n), benchmark.ask(benchmark.question(n))) for n in range(2)]
    with server(lambda number, body: said("4")) as (address, _):
        answerer = Served(address, "m", patience=Patience(timeout=5.0, tries=2), rest=lambda seconds: None, parallel=1)
        assert [reply.text for _, reply in answerer.answers(jobs[:1], WRITING)] == ["4"]
    ((_, reply),) = answerer.answers(jobs[1:], WRITING)
    assert "does not answer" in reply.error
