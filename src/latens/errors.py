"""What goes wrong through no fault of the code, said in one line."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class LatensError(ValueError):
    """Something the user can fix: the message says what is wrong and what to do.

    The command line prints it as one line on stderr and ends with exit status 2.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> LatensError:
    """The error for a name that does not exist, with the nearest one that does."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names)}"
    return LatensError(f"unknown {what} '{name}': {hint}")


def required(package: str, extra: str, what: str) -> Any:
    """A package that is not installed by itself, or a module of it.

    Args:
        extra: of latens, which installs it.
        what: needs it.

    Raises:
        LatensError: it is not there; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        name = package.partition(".")[0]
        raise LatensError(f"{what} needs {name}: pip install 'latens[{extra}]'") from None


def one_line(error: Exception) -> str:
    """The first line of an exception's text; its class where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
