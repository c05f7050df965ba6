"""Models on the Hugging Face Hub: `hf://user/name`, or `hf://user/name@revision`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from latens.errors import LatensError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

ADDRESS = re.compile(r"hf:/{1,2}(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
FILES = ["config.json", "model.safetensors", "config.yaml", "metrics.jsonl", "figures.json"]


def is_address(path: str | Path) -> bool:
    """Whether it names a model on the Hub."""
    return str(path).startswith("hf:/")


def as_given(path: str | Path) -> str:
    """A path, or an address with the two slashes of which a `Path` makes one."""
    return re.sub("^hf:/+", "hf://", str(path))


def is_of_hub(folder: Path) -> bool:
    """Whether a folder is one that `fetch` gave: models--USER--NAME/snapshots/REVISION."""
    cached = folder.parent.parent.name.startswith("models--")
    return cached and folder.parent.name == "snapshots"


def name_in_cache(folder: Path) -> str:
    """NAME of a folder that `fetch` gave."""
    return folder.parent.parent.name.rpartition("--")[2]


def address_in_cache(folder: Path) -> str:
    """USER/NAME@REVISION of a folder that `fetch` gave, the revision shortened."""
    _, *name = folder.parent.parent.name.split("--")
    return f"{'/'.join(name)}@{folder.name[:7]}"


def fetch(address: str | Path) -> Path:
    """The folder, in the Hub's cache on this machine, of a model that latens has pushed.

    Only the files of a run are fetched; none of them is code, and none is unpickled.

    Raises:
        LatensError: an address that is none, no such model, a Hub that refuses or fails, or no
            connection and none in the cache.
    """
    from huggingface_hub import snapshot_download

    found = ADDRESS.fullmatch(str(address))
    if found is None:
        raise LatensError(
            f"{as_given(address)} is no address: hf://USER/NAME, or hf://USER/NAME@REVISION"
        )
    with hub_errors(f"hf://{found['id']}", "no connection to the Hub, and not in its cache here"):
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


def upload(folder: Path, name: str, private: bool | None = None, token: str | None = None) -> str:
    """Put a folder on the Hub; returns its page's address.

    Args:
        name: USER/NAME; what does not exist is created.
        private: only its owner can see it; None: as the account has it.
        token: in place of that of `hf auth login`.

    Raises:
        LatensError: no right to write, a Hub that refuses or fails, or no connection.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with hub_errors(name, "the connection to the Hub failed: push again"):
        created = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=created.repo_id, folder_path=folder, commit_message="Pushed by latens"
        )
    return str(created)


@contextmanager
def hub_errors(what: str, offline: str) -> Iterator[None]:
    """One line for whatever a request for `what` may raise.

    Args:
        offline: what is said where there was no answer.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # Of httpx, whose name is another one from version to version
    transport = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    try:
        yield
    except HFValidationError as error:
        raise LatensError(f"{what} is no name on the Hub: {error}") from error
    except (LocalEntryNotFoundError, cast("type[Exception]", transport)) as error:
        refusal = _refusal(error)
        raise LatensError(_reason(what, refusal) if refusal else f"{what}: {offline}") from error
    except (ValueError, KeyError) as error:  # a page where JSON was expected
        raise LatensError(
            f"{what}: this is not how the Hub answers: is a proxy or a login page in between?"
        ) from error


def _refusal(error: BaseException | None) -> "HfHubHTTPError | None":
    """The Hub's answer, which the library may have taken for no connection."""
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__ or error.__context__
    return error


def _reason(what: str, refusal: "HfHubHTTPError") -> str:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(refusal, RepositoryNotFoundError | RevisionNotFoundError):
        return (
            f"the Hub has no {what}, or it is not yours to see: check the name, or log in by "
            "`hf auth login`"
        )
    status = refusal.response.status_code
    if status in (401, 403):
        return f"the Hub refuses {what} to you ({status}): log in by `hf auth login`"
    if status >= 500:
        return f"the Hub failed ({status}) at {what}: try again later"
    return f"the Hub refuses {what}: {refusal}"
