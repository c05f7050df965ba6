"""Measuring side by side: in turn, with medians and ranges."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any


def in_turn(tasks: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each task, the tasks one after another in each of so many rounds.

    Each is run once before, uncounted; the order turns round from one round to the next.
    """
    for task in tasks.values():
        task()
    return alternately({name: partial(seconds_of, task) for name, task in tasks.items()}, rounds)


def seconds_of(task: Callable[[], Any]) -> float:
    """How long a task takes."""
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def alternately(tasks: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """What each task returns, the tasks one after another in each of so many rounds.

    The order turns round from one round to the next.
    """
    found: dict[str, list[Any]] = {name: [] for name in tasks}
    for i in range(rounds):
        for name in list(tasks)[:: 1 if i % 2 == 0 else -1]:
            found[name].append(tasks[name]())
    return found


def spread(values: Sequence[float], digits: str = ",.0f") -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{digits}} ({low:{digits}}–{high:{digits}})"


def ratio(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as Markdown."""
    print(f"\n### {title}\n")
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |", flush=True)
