"""What a run that is shared need not tell: in which folders of a machine its files lay."""

import re
from pathlib import PurePath
from typing import Any

ABSOLUTE = re.compile(r"'(/[^']*)'|(?<![^\s'])(/[^\s']+)")  # in a command; the former holds spaces
ADDRESS = re.compile(r"(https?://)(?:[^\s/'@]*@)?([^\s'?#]*)(?:\?[^\s'#]*)?(?:#[^\s']*)?")


def command_without_folders(command: str) -> str:
    """A command, or a call, with the last part alone of each absolute path.

    Of addresses user, password and query are left out.
    """
    return ABSOLUTE.sub(_name, ADDRESS.sub(r"\1\2", command))


def _name(found: re.Match[str]) -> str:
    quoted, plain = found.groups()
    return PurePath(plain).name if quoted is None else f"'{PurePath(quoted).name}'"


def without_folders(value: Any) -> Any:
    """Options, with the last part alone of each value that is an absolute path."""
    if isinstance(value, dict):
        return {name: without_folders(each) for name, each in value.items()}
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return ADDRESS.sub(r"\1\2", value) if isinstance(value, str) else value
