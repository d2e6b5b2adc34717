import pytest

from serve import server
from vlmlab.serve.decoders import Bounds, Decoders
from vlmlab.serve.media import Pictures, Policy


@pytest.fixture(scope="package")
def decoders():
    with Decoders(Bounds(processes=1)) as made:
        yield made


@pytest.fixture(scope="package")
def served(decoders):
    """A tiny model behind a server that tests share."""
    with server.serving(Pictures(Policy(), decoders)) as one:
        yield one
