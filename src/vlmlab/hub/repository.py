"""Files of a hub repository, a model's or a dataset's: fetched, or found in the hub's cache."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Kind = Literal["model", "dataset"]


def is_name(text: str) -> bool:
    """Whether a text has the form of a hub id, such as HuggingFaceM4/idefics2-8b."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None


def fetch(name: str, patterns: Sequence[str], instead: str, revision: str | None = None, kind: Kind = "model") -> Path:
    """The folder with those files of a repository that match a pattern; nothing else is fetched, nothing is run.

    `revision` is a branch, tag or commit. Raises ValueError that ends in `instead`: how to do without a network.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=list(patterns))
        )
    except errors.GatedRepoError:
        raise ValueError(f"{name} on the hub asks you to accept its terms: do, and log in, {instead}") from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{name} on the hub has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"there is no {name} here as a folder, nor on the hub for you; mind the spelling, {instead}"
        ) from None
    except (OSError, errors.LocalEntryNotFoundError, errors.HfHubHTTPError, errors.HFValidationError) as error:
        told = str(error).splitlines()[0][:200]
        raise ValueError(f"cannot fetch {name} from the hub ({told}): see to the network, {instead}") from None
