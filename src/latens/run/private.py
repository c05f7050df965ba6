"""What a run that is shared need not tell: in which folders of a machine its files lay."""

import re
from pathlib import PurePath
from typing import Any

ABSOLUTE = re.compile(r"'(/[^']*)'|(?<![^\s'])(/[^\s']+)")  # in a command; the former holds spaces


def command_without_folders(command: str) -> str:
    """A command, or a call, with the last part alone of each absolute path."""
    return ABSOLUTE.sub(_name, command)


def _name(found: re.Match[str]) -> str:
    quoted, plain = found.groups()
    return PurePath(plain).name if quoted is None else f"'{PurePath(quoted).name}'"


def without_folders(value: Any) -> Any:
    """Options, with the last part alone of each value that is an absolute path."""
    if isinstance(value, dict):
        return {name: without_folders(each) for name, each in value.items()}
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return value
