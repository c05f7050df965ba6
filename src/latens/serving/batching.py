"""Concurrent requests as one batch, in one thread that computes."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., dict[str, Tensor]]


class Busy(Exception):
    """More images wait than may."""


@dataclass
class _Waiting:
    """A request that waits: a function of tensors whose first axis is images."""

    key: Hashable
    function: Function
    inputs: tuple[Tensor | None, ...]
    rows: int
    cost: int
    done: asyncio.Future[dict[str, Tensor]]


@dataclass
class Batcher:
    """Puts requests that wait for the same function into one batch.

    Nothing is delayed for it: while one batch is computed, others arrive, and those of them that
    ask for what the first of them asks for are the next.

    Attributes:
        most_rows: images in a batch; a larger request is a batch of its own.
        most_waiting: images that may wait.
        requests, batches: how many there have been.
    """

    most_rows: int
    most_waiting: int
    requests: int = 0
    batches: int = 0
    _queue: deque[_Waiting] = field(default_factory=deque)
    _worker: asyncio.Task[None] | None = None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def __call__(
        self,
        key: Hashable,
        function: Function,
        *inputs: Tensor | None,
        rows: int,
        cost: int | None = None,
    ) -> dict[str, Tensor]:
        """What the function gives for the rows of these inputs.

        Args:
            key: requests of the same key have the same function, and inputs that can be joined.
            rows: the size of the first axis of inputs and outputs.
            cost: images that are computed for them; None: as many as rows.

        Raises:
            Busy: too many images wait.
        """
        cost = rows if cost is None else cost
        if sum(each.cost for each in self._queue) + cost > max(self.most_waiting, cost):
            raise Busy
        done: asyncio.Future[dict[str, Tensor]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(key, function, inputs, rows, cost, done))
        self.requests += 1
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await done

    def close(self) -> None:
        """End the thread, when all is computed."""
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            self.batches += 1
            try:
                found = await loop.run_in_executor(self._thread, _computed, batch)
            except Exception as error:  # whatever it is, those who asked are told
                for each in batch:
                    if not each.done.cancelled():
                        each.done.set_exception(error)
                continue
            for each, outputs in zip(batch, found, strict=True):
                if not each.done.cancelled():
                    each.done.set_result(outputs)

    def _next_batch(self) -> list[_Waiting]:
        """The first that waits, and as many as fit of the others that ask for the same."""
        batch, cost, others = list[_Waiting](), 0, deque[_Waiting]()
        for each in self._queue:
            if each.done.cancelled():  # its client has gone
                continue
            fits = not batch or (each.key == batch[0].key and cost + each.cost <= self.most_rows)
            if fits:
                batch.append(each)
                cost += each.cost
            else:
                others.append(each)
        self._queue = others
        return batch


def _computed(batch: list[_Waiting]) -> list[dict[str, Tensor]]:
    """The outputs of each request of a batch."""
    columns = zip(*(each.inputs for each in batch), strict=True)
    joined = [_joined(column) for column in columns]
    with torch.no_grad():
        outputs = batch[0].function(*joined)
    sizes = [each.rows for each in batch]
    parts = {name: values.split(sizes) for name, values in outputs.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(batch))]


def _joined(column: tuple[Any, ...]) -> Tensor | None:
    return None if column[0] is None else torch.cat(column)
