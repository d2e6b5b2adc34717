"""The law of equal answers, in random mixes; see `law.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from generate import law


@pytest.mark.parametrize("kind", law.KINDS)
def test_answers_do_not_change_with_company_cache_chunks_or_order(kind, capsys):
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "generate.law", kind, "100"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    with capsys.disabled():
        print(f" [{done.stdout.strip()}]", end="")
