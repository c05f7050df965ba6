"""Models on the Hugging Face Hub: `hf://user/name`, or `hf://user/name@revision`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from latens.errors import LatensError

# A `Path` makes one slash of two
ADDRESS = re.compile(r"hf:/{1,2}(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
FILES = ["config.json", "model.safetensors", "config.yaml", "metrics.jsonl", "figures.json"]


def is_address(path: str | Path) -> bool:
    """Whether it names a model on the Hub."""
    return str(path).startswith("hf:/")


def is_of_hub(folder: Path) -> bool:
    """Whether a folder is one that `fetch` gave: models--USER--NAME/snapshots/REVISION."""
    cached = folder.parent.parent.name.startswith("models--")
    return cached and folder.parent.name == "snapshots"


def name_in_cache(folder: Path) -> str:
    """NAME of a folder that `fetch` gave."""
    return folder.parent.parent.name.rpartition("--")[2]


def fetch(address: str | Path) -> Path:
    """The folder, in the Hub's cache on this machine, of a model that latens has pushed.

    Only the files of a run are fetched; none of them is code, and none is unpickled.

    Raises:
        LatensError: an address that is none, no such model, or no connection and none in the cache.
    """
    from huggingface_hub import snapshot_download

    found = ADDRESS.fullmatch(str(address))
    if found is None:
        given = re.sub("^hf:/+", "hf://", str(address))
        raise LatensError(f"{given} is no address: hf://USER/NAME, or hf://USER/NAME@REVISION")
    with _hub_errors(f"hf://{found['id']}"):
        folder = snapshot_download(found["id"], revision=found["revision"], allow_patterns=FILES)
    return Path(folder)


def check_upload(name: str) -> None:
    """Raise what `upload` would raise and what needs no connection, before work is done for it.

    Raises:
        LatensError: a name that is none, or no token.
    """
    from huggingface_hub import get_token

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise LatensError(f"{name} is no name on the Hub: USER/NAME")
    if get_token() is None:
        raise LatensError("the Hub does not know you: log in by `hf auth login`")


def upload(folder: Path, name: str, private: bool) -> str:
    """Put a folder on the Hub; returns its page's address.

    Args:
        name: USER/NAME; what does not exist is created.

    Raises:
        LatensError: no right to write, or no connection.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _hub_errors(name):
        created = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Pushed by latens")
    return str(created)


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Of httpx, whose name is another one from version to version
    transport = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    try:
        yield
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise LatensError(
            f"the Hub has no {what}, or it is not yours to see: check the name, or log in by "
            "`hf auth login`"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise LatensError(
                f"the Hub does not let you write {what}: log in by `hf auth login`"
            ) from error
        raise LatensError(f"the Hub does not take {what}: {error}") from error
    except HFValidationError as error:
        raise LatensError(f"{what} is no name on the Hub: {error}") from error
    except (LocalEntryNotFoundError, cast("type[Exception]", transport)) as error:
        raise LatensError(f"{what}: no connection to the Hub, and not in its cache here") from error
