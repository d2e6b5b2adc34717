"""The command `vlmlab serve` in a process of its own, and clients that ask it."""

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request

from vlmlab.hub import save


def folder_of(engine, tmp_path_factory):
    """A folder that holds the engine's model."""
    return save.save(engine.model, engine.processor, tmp_path_factory.mktemp("model") / "tiny-model")


@contextlib.contextmanager
def running(folder, *words, port="0", **environment):
    """The command in a process of its own, listening; killed at the end if it is still there."""
    command = [sys.executable, "-m", "vlmlab.cli", "serve", str(folder), "--port", port, "--device", "cpu", *words]
    told = {**os.environ, "OMP_NUM_THREADS": "1"} | environment
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=told)
    try:
        log = ""
        for line in process.stderr:
            log += line
            if found := re.search(r"listening at (http://\S+)", line):
                break
        else:
            raise AssertionError(log)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def post(url, data, **headers):
    body = json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} | headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def chat(text, **more):
    return {"model": "tiny-model", "messages": [{"role": "user", "content": text}], "temperature": 0} | more
