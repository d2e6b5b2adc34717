"""What every test shares: shape and type checking at run time."""

import os

import hypothesis
import jaxtyping
import pytest
from tokenizers import Tokenizer

from oracles import released_tokenizer

# Checks every annotation of vlmlab, tensor axes included, while the tests run. torch.compile cannot trace through it:
# tests that compile start a process of their own, which this hook does not reach.
if "VLMLAB_NO_TYPECHECK" not in os.environ:
    jaxtyping.install_import_hook("vlmlab", "beartype.beartype")

# A machine that is busy is not a failure; in CI the same examples every time.
hypothesis.settings.register_profile("vlmlab", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("vlmlab")


@pytest.fixture(scope="session")
def idefics2_tokenizer() -> Tokenizer:
    """The released model's tokenizer, 32,003 tokens, as the `tokenizers` library reads its file. Do not change it."""
    return released_tokenizer()
