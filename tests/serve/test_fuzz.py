"""Broken pictures by the hundred. `make fuzz` breaks 5,000."""

from serve import fuzz
from serve.hostile import MANY
from vlmlab.processor.formats import decoded
from vlmlab.serve.decoders import Bounds, Decoders, Refused


def test_five_hundred_broken_pictures_take_nothing_down_and_leave_nothing_behind():
    figures = fuzz.run(500)
    assert figures.decoded + sum(figures.refused.values()) == 500
    assert figures.decoded > 50 and sum(figures.refused.values()) > 50  # they reach the decoders, and hurt
    assert figures.replaced == 0
    assert figures.growth < 0.05, figures


def test_a_broken_picture_is_read_or_refused_as_it_is_here():
    with Decoders(Bounds(processes=1)) as decoders:
        for data in fuzz.broken(150, seed=1):
            try:
                there = decoders.decode(data, "it", MANY)
            except Refused as error:
                assert not reads(data), error
            else:
                assert there.tobytes() == decoded(data, "it", MANY).tobytes()


def reads(data: bytes) -> bool:
    try:
        decoded(data, "it", MANY)
    except ValueError:
        return False
    return True


def test_the_same_seed_breaks_alike():
    assert list(fuzz.broken(20, 3)) == list(fuzz.broken(20, 3)) != list(fuzz.broken(20, 4))
