"""Adapters by their names over HTTP: asked for as models, loaded from one directory, refused, and let go."""

import json
import os
import shutil
import threading
import urllib.error
import urllib.request

import openai
import pytest
import text_generation

from generate import adapting, tiny
from serve import server
from serve.test_openai import ask, sample
from vlmlab.hub import adapters as files
from vlmlab.serve.media import Pictures, Policy
from vlmlab.serve.service import Limits

KEY = "secret-secret"
PICTURE = tiny.picture(20, 30, 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    inside = tmp_path_factory.mktemp("adapters")
    for kind in ("eyes", "rows"):
        adapting.write(server.engine().model, kind, inside / kind)
    return inside


@pytest.fixture(scope="module")
def right(folders):
    """What a model writes that was loaded with one adapter alone."""
    found = {server.NAME: server.engine().generate([sample("What?", PICTURE)], 8)[0].lstrip()}
    for kind in ("eyes", "rows"):
        engine = server.engine()
        files.read(engine.model, folders / kind)
        found[kind] = engine.generate([sample("What?", PICTURE)], 8)[0].lstrip()
    assert len(set(found.values())) == 3
    return found


@pytest.fixture(scope="module")
def running(decoders, folders):
    limits = Limits(key=KEY, adapters_from=folders, drain_seconds=5.0)
    with server.serving(Pictures(Policy(), decoders), limits) as served:
        yield served


@pytest.fixture
def adapting_server(running):
    """A server that was given a directory; without adapters when a test begins."""
    for adapter in running.service.engine.adapters():
        running.service.engine.unload_adapter(adapter.name)
    return running


def post(served, path, data, key=KEY):
    """The status and the body of an answer."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(served.url + path, json.dumps(data).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def load(served, name, path, **more):
    return post(served, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}, **more)


def unload(served, name, **more):
    return post(served, "/v1/unload_lora_adapter", {"lora_name": name}, **more)


def client(served):
    return openai.OpenAI(base_url=served.url + "/v1", api_key=KEY, max_retries=0)


def chat(asking, name):
    answer = asking.chat.completions.create(model=name, messages=ask("What?", PICTURE), temperature=0, max_tokens=8)
    assert answer.model == name
    return answer.choices[0].message.content


def test_openais_client_asks_for_adapters_as_models(adapting_server, right):
    with client(adapting_server) as asking:
        assert [model.id for model in asking.models.list()] == [server.NAME, "tgi"]
        for kind in ("eyes", "rows"):
            assert load(adapting_server, kind, kind)[0] == 200
        listed = {model.id: model for model in asking.models.list()}
        assert list(listed) == [server.NAME, "tgi", "eyes", "rows"]
        assert listed["eyes"].parent == server.NAME and listed["eyes"].bytes > 1000
        assert asking.models.retrieve("rows").bytes == listed["rows"].bytes
        assert {name: chat(asking, name) for name in right} == right
        text = asking.completions.create(model="rows", prompt="hello", temperature=0, max_tokens=6).choices[0].text
        assert (
            text
            != asking.completions.create(model=server.NAME, prompt="hello", temperature=0, max_tokens=6).choices[0].text
        )
        assert unload(adapting_server, "eyes")[0] == 200
        with pytest.raises(openai.NotFoundError, match="'eyes' is not served here"):
            chat(asking, "eyes")
        assert chat(asking, "rows") == right["rows"]


def test_tgis_client_asks_for_one_by_its_id(adapting_server):
    load(adapting_server, "rows", "rows")
    engine = server.engine()
    engine.load_adapter("rows", adapting_server.service.limits.adapters_from / "rows")
    asking = text_generation.Client(adapting_server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    parameters = {"adapter_id": "rows", "max_new_tokens": 6}
    status, body = post(adapting_server, "/generate", {"inputs": "hello", "parameters": parameters})
    assert (
        status == 200
        and json.loads(body)["generated_text"] != asking.generate("hello", max_new_tokens=6).generated_text
    )
    status, body = post(adapting_server, "/generate", {"inputs": "a", "parameters": {"adapter_id": "no"}})
    assert status == 404 and "'no' is not served" in body


def test_loading_needs_the_key_and_the_directory(adapting_server, served, folders):
    for call in (load(adapting_server, "eyes", "eyes", key=None), unload(adapting_server, "eyes", key="wrong-wrong")):
        assert call[0] == 401
    assert not adapting_server.service.engine.adapters()
    assert load(served, "eyes", str(folders / "eyes"))[0] == 404  # off by default
    assert "lora" not in urllib.request.urlopen(served.url + "/openapi.json").read().decode()


def paths(folders, outside):
    """Ways out of a directory, and what is none of its folders."""
    (folders / "link").symlink_to(outside)
    (folders / "circle").symlink_to(folders / "circle")
    shutil.copytree(folders / "eyes", folders / "files")
    (folders / "files" / files.WEIGHTS).unlink()
    (folders / "files" / files.WEIGHTS).symlink_to(outside / files.WEIGHTS)
    shutil.copytree(folders / "eyes", folders / "pipe")
    (folders / "pipe" / files.CONFIG).unlink()
    os.mkfifo(folders / "pipe" / files.CONFIG)
    return [
        str(outside), f"../{outside.name}", f"eyes/../../{outside.name}", "link", "link/../link", "files", "pipe",
        "circle", "circle/x", "/etc", "/etc/passwd", "..", "../..", "~", "~root", "no such", "eyes/adapter_config.json",
        "eyes\x00", "\x00", "x" * 900, "/" * 900, "file:///etc", "\\\\host\\share", "eyes\ud800", "%2e%2e/outside",
    ]  # fmt: skip


def test_no_path_leads_out(adapting_server, folders, tmp_path):
    outside = shutil.copytree(folders / "eyes", tmp_path / "outside")
    try:
        for path in paths(folders, outside):
            status, body = load(adapting_server, "mine", path)
            assert status == 400, (path, body)
            if "\ud800" not in path:
                assert "there is no adapter at" in body and str(folders) not in body.replace(repr(path)[1:-1], ""), path
        assert not adapting_server.service.engine.adapters()
        (folders / "within").symlink_to(folders / "eyes")  # links may lead about inside
        for path in ("within", str(folders / "eyes"), "rows/../eyes", "./eyes/"):
            assert load(adapting_server, "mine", path)[0] == unload(adapting_server, "mine")[0] == 200
    finally:
        for name in ("link", "circle", "within"):
            (folders / name).unlink(missing_ok=True)
        for name in ("files", "pipe"):
            shutil.rmtree(folders / name, ignore_errors=True)


def test_what_cannot_be_is_refused_with_the_reason(adapting_server, folders, tmp_path):
    spoilt = shutil.copytree(folders / "eyes", folders / "spoilt")
    try:
        whole = (spoilt / files.WEIGHTS).read_bytes()
        (spoilt / files.WEIGHTS).write_bytes(whole[: len(whole) // 2])
        status, body = load(adapting_server, "mine", "spoilt")
        assert status == 400 and "not a whole safetensors file" in body and str(folders) not in body
        (spoilt / files.WEIGHTS).write_bytes(whole.replace(b"q_proj", b"x_proj"))
        status, body = load(adapting_server, "mine", "spoilt")
        assert status == 400 and "no linear layer here is called so" in body
        (spoilt / files.CONFIG).write_text("[" * 100_000)
        assert load(adapting_server, "mine", "spoilt")[0] == 400
        (spoilt / files.CONFIG).write_text(" " * (1 << 20) + "{}")
        assert "it is no config" in load(adapting_server, "mine", "spoilt")[1]
        (spoilt / files.CONFIG).unlink()
        assert "has no adapter_config.json" in load(adapting_server, "mine", "spoilt")[1]
    finally:
        shutil.rmtree(spoilt)
    adapting_server.service.engine.bank.memory = 10_000
    status, body = load(adapting_server, "mine", "eyes")
    assert status == 400 and "of the 10,000 for adapters are taken" in body
    adapting_server.service.engine.bank.memory = 1 << 30
    assert "the model's own name" in load(adapting_server, server.NAME, "eyes")[1]
    assert load(adapting_server, "a b", "eyes")[0] == 400
    assert load(adapting_server, "mine", "eyes")[0] == 200
    status, body = load(adapting_server, "mine", "rows")
    assert status == 400 and "is loaded already" in body
    assert unload(adapting_server, "other")[0] == 404


def test_adapters_come_and_go_while_others_are_answered(adapting_server, right):
    load(adapting_server, "eyes", "eyes")
    failed, over = [], threading.Event()

    def ask_again(name):
        with client(adapting_server) as asking:
            while not over.is_set():
                try:
                    if (said := chat(asking, name)) != right[name]:
                        failed.append((name, said))
                except openai.OpenAIError as error:
                    failed.append((name, error))

    threads = [threading.Thread(target=ask_again, args=(name,)) for name in (server.NAME, "eyes")]
    for thread in threads:
        thread.start()
    with client(adapting_server) as asking:
        for _ in range(3):
            assert load(adapting_server, "rows", "rows")[0] == 200
            assert chat(asking, "rows") == right["rows"]
            stream = asking.chat.completions.create(
                model="rows", messages=ask("What?", PICTURE), temperature=0, max_tokens=8, stream=True
            )
            pieces = [next(iter(stream)).choices[0].delta.content]
            assert unload(adapting_server, "rows")[0] == 200  # what has begun goes on
            pieces += [chunk.choices[0].delta.content or "" for chunk in stream]
            assert "".join(pieces) == right["rows"]
    over.set()
    for thread in threads:
        thread.join(60)
    assert failed == []
    page = urllib.request.Request(adapting_server.url + "/metrics", headers={"Authorization": f"Bearer {KEY}"})
    told = urllib.request.urlopen(page).read().decode()
    assert "vlmlab_adapters 1.0" in told and "vlmlab_requests_failed_total 0.0" in told
