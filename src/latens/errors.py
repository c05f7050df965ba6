"""What goes wrong through no fault of the code, said in one line."""

import difflib
from collections.abc import Iterable


class LatensError(ValueError):
    """Something the user can mend: the message says what is wrong and what to do.

    The command line prints it as one line on stderr and ends with exit status 2.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> LatensError:
    """The error for a name that does not exist, with the nearest one that does."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names)}"
    return LatensError(f"unknown {what} '{name}': {hint}")
