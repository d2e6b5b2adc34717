"""`vlmlab serve`, the command: what it takes, what it refuses, and how it ends."""

import http.client
import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from generate import adapting
from serve import server
from serve.command import chat, folder_of, post, running, status
from vlmlab import cli
from vlmlab.batch import Sample
from vlmlab.generate.engine import Engine
from vlmlab.hub.load import load
from vlmlab.quantize import int8
from vlmlab.serve_command import Serving, limits_of, policy_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(server.engine(), tmp_path_factory)


def test_a_folder_is_served_until_a_signal_and_what_is_under_way_ends(folder):
    words = ["--api-key-env", "KEY_OF_TEST", "--rows", "2", "--context", "1000"]
    with running(folder, *words, KEY_OF_TEST="secret-secret") as (process, url):
        headers = {"Authorization": "Bearer secret-secret"}
        answer = post(url + "/v1/chat/completions", chat("hello", max_tokens=12), **headers)
        assert answer["choices"][0]["message"]["content"] == server.offline("hello", 12).lstrip()
        body = json.dumps(chat("hi", max_tokens=800, stream=True)).encode()
        request = urllib.request.Request(
            url + "/v1/chat/completions", body, {"Content-Type": "application/json"} | headers
        )
        with urllib.request.urlopen(request, timeout=60) as stream:
            first = stream.readline()
            process.send_signal(signal.SIGTERM)
            while status(url + "/health") == 200:
                time.sleep(0.01)
            assert status(url + "/health") == 503
            with pytest.raises(urllib.error.HTTPError, match="503") as refused:
                post(url + "/v1/chat/completions", chat("new"), **headers)
            assert refused.value.headers["Retry-After"]
            rest = stream.read().decode()
        assert b"assistant" in first and rest.endswith("data: [DONE]\n\n")
        assert rest.count("data: ") > 100
        assert process.wait(30) == 0
        told = process.stderr.read()
        assert "hello" not in told and "secret-secret" not in told


def test_a_model_served_in_few_bits_answers_as_it_does_offline(folder):
    model, processor = load(folder, quantize=int8.Config().build())
    sample = Sample.from_messages([{"role": "user", "content": "hello"}])
    right = Engine(model, processor).generate([sample], 12)[0]
    assert right != server.offline("hello", 12)  # so the answer tells which of the two is served
    with running(folder, "--quantize", "int8", "--context", "1000") as (_, url):
        answer = post(url + "/v1/chat/completions", chat("hello", max_tokens=12))
    assert answer["choices"][0]["message"]["content"] == right.lstrip()


def test_adapters_are_served_by_their_names(folder, tmp_path):
    place = adapting.write(server.engine().model, "eyes", tmp_path / "mine")
    words = ["--adapters", f"mine={place}", "--adapters-from", str(tmp_path)]
    with running(folder, *words) as (_, url):
        asked = json.dumps({"lora_name": "again", "lora_path": "mine"}).encode()
        request = urllib.request.Request(url + "/v1/load_lora_adapter", asked, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.read().startswith(b"Success: LoRA adapter 'again' added successfully")
        engine = server.engine()
        engine.load_adapter("mine", place)
        expected = engine.generate([Sample.from_messages([{"role": "user", "content": "hello"}])], 8, adapter="mine")
        assert expected != [server.offline("hello", 8)]
        for name in ("mine", "again"):
            answer = post(url + "/v1/chat/completions", chat("hello", max_tokens=8) | {"model": name})
            assert answer["choices"][0]["message"]["content"] == expected[0].lstrip()


def test_an_adapter_is_not_called_as_the_model_is(folder, capsys):
    assert cli.main(["serve", str(folder), "--device", "cpu", "--adapters", "tiny-model=x"]) == 2
    assert "--adapters tiny-model: that is the model's own name" in capsys.readouterr().err


def test_killed_and_started_again_it_loses_what_was_under_way_and_says_so(folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with running(folder, "--context", "4000", port=port) as (process, url):
        request = urllib.request.Request(
            url + "/v1/chat/completions",
            json.dumps(chat("hi", max_tokens=3900, stream=True)).encode(),
            {"Content-Type": "application/json"},
        )
        with ThreadPoolExecutor() as waiting, urllib.request.urlopen(request, timeout=60) as stream:
            whole = waiting.submit(post, url + "/v1/chat/completions", chat("hi", max_tokens=3900))
            stream.readline()
            while b"vlmlab_requests_writing 2.0" not in urllib.request.urlopen(url + "/metrics", timeout=60).read():
                time.sleep(0.01)
            process.kill()
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                stream.read()
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                whole.result(30)
    # What a supervisor does: the same again.
    with running(folder, "--context", "4000", port=port) as (_, url):
        answer = post(url + "/v1/chat/completions", chat("hello", max_tokens=12))
        assert answer["choices"][0]["message"]["content"] == server.offline("hello", 12).lstrip()


def test_a_second_signal_ends_it_at_once(folder):
    with running(folder, "--context", "4000") as (process, url):
        body = json.dumps(chat("hi", max_tokens=3900, stream=True)).encode()
        request = urllib.request.Request(url + "/v1/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as stream:
            stream.readline()
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) is not None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "70000"], "--port must be 0 to 65535"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE: there is no such variable"),
        (["--allow-urls", "*.example.org"], "--allow-urls .*no host's name"),
        (["--rows", "0"], "--rows must be 1 or more, not 0"),
        (["--queue", "-5"], "--queue must be 1 or more, not -5"),
        (["--memory", "-1"], "--memory must be 0 or more, not -1"),
        (["--drain", "nan"], "--drain must be 0 or more, not nan"),
        (["--max-request-mib", "0"], "--max-request-mib must be 1 or more, not 0"),
        (["--context", "1000000000"], "--context must be \\d+ or less, the positions of"),
        (["--cors", "https://example.org/"], "--cors https://example.org/: write a site as browsers do"),
        (["--names", "http://example.org"], "--names http://example.org: write a name as example.org"),
        (["--host", "300.1.1.1"], "cannot listen at --host 300.1.1.1 --port 8000"),
        (["--adapters", "a"], "--adapters a: say NAME=FOLDER"),
        (["--adapters", "a=x", "a=y"], "--adapters a=y: say NAME=FOLDER, each name once"),
        (["--adapters", "a=x", "--adapter", "y"], "--adapter acts for all requests"),
        (["--adapters-from", "x", "--adapter", "y"], "x is no folder to load adapters from"),
        (["--adapters-memory", "0"], "--adapters-memory must be 1 or more"),
    ],
)
def test_what_cannot_be_served_is_one_line(folder, words, says, capsys):
    assert cli.main(["serve", str(folder), *words]) == 2
    assert re.search(says, capsys.readouterr().err)


def test_keys_come_from_the_environment_or_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_TEST", "from-environment")
    assert limits_of(Serving(api_key_env="KEY_OF_TEST")).key == "from-environment"
    (tmp_path / "key").write_text("from-a-file\n")
    assert limits_of(Serving(api_key_file=tmp_path / "key")).key == "from-a-file"
    (tmp_path / "key").write_text("short\n")
    with pytest.raises(ValueError, match="8 printable"):
        limits_of(Serving(api_key_file=tmp_path / "key"))


def test_what_is_open_by_default():
    limits = limits_of(Serving())
    assert "localhost" in limits.hosts and limits.key is None and limits.origins == () and not limits.log_prompts
    assert limits_of(Serving(host="0.0.0.0")).hosts == ()
    assert policy_of(Serving()).urls == "off"
    assert policy_of(Serving(allow_urls="public")).urls == "public"
    assert policy_of(Serving(allow_urls="a.example.org, b.example.org")).hosts == ("a.example.org", "b.example.org")


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", "no-such-model", "--port", port]) == 2
    assert f"cannot listen at --host 127.0.0.1 --port {port}: Address already in use" in capsys.readouterr().err
