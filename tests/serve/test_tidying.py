"""Memory that was freed between what is in use goes back to the system."""

import sys
import time

import pytest

from serve.hostile import memory
from vlmlab.serve import tidying

SIZE, COUNT = 60_000, 3_000


@pytest.mark.skipif(sys.platform != "linux", reason="only there the allocator can be asked")
def test_what_was_freed_is_given_back():
    held = [bytes([at % 251]) * SIZE for at in range(COUNT)]
    del held[:-1]  # the last one stays, behind all the others: nothing can be cut off at the end
    before = memory("self", "VmRSS")
    if not tidying.give_back():
        pytest.skip("another allocator than glibc's")
    assert memory("self", "VmRSS") < before - SIZE * COUNT // 2


def test_it_goes_on_until_it_is_told_to_stop(monkeypatch):
    times = []
    monkeypatch.setattr(tidying, "give_back", lambda: times.append(1) is None)
    tidy = tidying.Tidying(every=0.001)
    while len(times) < 3:
        time.sleep(0.001)
    tidy.stop()
    so_far = len(times)
    assert not tidy._thread.is_alive() and len(times) == so_far


def test_where_it_cannot_be_asked_it_ends_by_itself(monkeypatch):
    monkeypatch.setattr(tidying, "give_back", lambda: False)
    tidy = tidying.Tidying(every=0.001)
    tidy._thread.join(10)
    assert not tidy._thread.is_alive()
