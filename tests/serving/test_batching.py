"""Requests that wait are joined, and each gets its own rows."""

import asyncio
import math
import threading

import pytest
import torch

from latens.errors import LatensError
from latens.serving.batching import Batcher, Busy


def doubled(x, _y=None):
    return {"twice": 2 * x, "plain": x}


def row(value):
    return torch.full((2, 3), float(value))


def together(batcher, coroutines):
    async def gathered():
        return await asyncio.gather(*coroutines, return_exceptions=True)

    try:
        return asyncio.run(gathered())
    finally:
        batcher.close()


def test_each_gets_its_own_rows_of_fewer_batches():
    batcher = Batcher(most_rows=64, most_waiting=1_000)
    asked = [batcher("double", doubled, row(i), None, rows=2) for i in range(50)]
    found = together(batcher, asked)
    for i, outputs in enumerate(found):
        assert torch.equal(outputs["twice"], row(2 * i))
        assert torch.equal(outputs["plain"], row(i))
    assert batcher.requests == 50
    assert batcher.batches == 2  # 64 rows of 32 requests, and the others


def test_other_functions_and_larger_requests_go_by_themselves():
    batcher = Batcher(most_rows=4, most_waiting=1_000)
    sizes, lock = [], threading.Lock()

    def sized(x):
        with lock:
            sizes.append(len(x))
        return {"x": x}

    asked = [batcher("a", sized, torch.zeros(n, 1), rows=n) for n in (1, 9, 1, 2)]
    asked.insert(2, batcher("b", sized, torch.zeros(1, 1), rows=1))
    together(batcher, asked)
    assert sorted(sizes) == [1, 4, 9]


def test_an_error_is_told_to_those_who_asked_and_the_next_are_answered():
    batcher = Batcher(most_rows=8, most_waiting=100)

    def refuses(x):
        raise LatensError("no")

    asked = [batcher("bad", refuses, row(0), rows=2), batcher("good", doubled, row(1), rows=2)]
    error, good = together(batcher, asked)
    assert isinstance(error, LatensError)
    assert torch.equal(good["twice"], row(2))


def test_too_many_are_told_to_come_again():
    batcher = Batcher(most_rows=2, most_waiting=6)
    found = together(batcher, [batcher("a", doubled, row(i), rows=2) for i in range(10)])
    refused = [each for each in found if isinstance(each, Busy)]
    assert 6 <= len(refused) < 10
    assert len(found) - len(refused) == batcher.requests


def test_what_nobody_waits_for_is_not_computed():
    batcher = Batcher(most_rows=2, most_waiting=100)
    begun = threading.Event()
    seen = []

    def slow(x):
        begun.wait(5)
        seen.append(float(x[0, 0]))
        return {"x": x}

    async def leaves():
        tasks = [asyncio.create_task(batcher("a", slow, row(i), rows=2)) for i in range(3)]
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        begun.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(leaves())
    batcher.close()
    assert seen == [0.0, 2.0]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"images": 0}, "images is 0: it must be above 0"),
        ({"megabytes": -1.0}, "it must be above 0"),
        ({"rate": -1}, "rate is -1: it must be 0 or more"),
        ({"megabytes": math.nan}, "megabytes is nan: it must be above 0"),
        ({"megapixels": math.inf}, "megapixels is inf: it must be above 0"),
    ],
)
def test_limits_are_numbers_that_mean_something(limits, words):
    from latens.serving.limits import Limits

    with pytest.raises(LatensError, match=words):
        Limits(**limits)
    assert Limits(rate=0).rate == 0
