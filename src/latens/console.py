"""What latens says while it works: always on stderr, so that stdout holds only results."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Of several processes that train together only the first one speaks.
RANK = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
IS_MAIN = "WORLD_SIZE" not in os.environ or RANK == "0"
LONGEST_LINE = 1_000  # characters
stderr = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not IS_MAIN)
_overheard: list[list[tuple[str, str]]] = []  # what is being kept of what is said


@contextmanager
def silent(is_silent: bool = True) -> Iterator[None]:
    """Nothing is said inside."""
    before, stderr.quiet = stderr.quiet, stderr.quiet or is_silent
    try:
        yield
    finally:
        stderr.quiet = before


def in_one_line(text: str) -> str:
    """A text that may come from outside: no control characters, and not too long."""
    words = " ".join(text.split())
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)
    return plain if len(plain) <= LONGEST_LINE else f"{plain[:LONGEST_LINE]} …"


def note(text: str) -> None:
    """One line the user should know of, but need not act on."""
    say("note", text)


def warn(text: str) -> None:
    """One line the user should act on; it names the remedy."""
    say("warning", text)


def say(kind: str, text: str) -> None:
    """A note or a warning."""
    for kept in _overheard:
        kept.append((kind, text))
    style = "yellow" if kind == "warning" else None
    stderr.print(f"latens: {kind}: {in_one_line(text)}", markup=False, style=style)


@contextmanager
def overheard() -> Iterator[list[tuple[str, str]]]:
    """The notes and warnings that are said inside, for `say` to say them again."""
    kept: list[tuple[str, str]] = []
    _overheard.append(kept)
    try:
        yield kept
    finally:
        _overheard.remove(kept)


def progress(unit: str) -> Progress:
    """A bar that counts `unit`s and vanishes when done; silent where stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )
