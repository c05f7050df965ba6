"""What is told of a training while it runs."""

from typing import Any

from latens.run.directory import Run


class Callback:
    """Told of a training, epoch by epoch: override what is needed.

    Of several processes that train together, the first one tells.
    """

    def on_begin(self, run: Run) -> None:
        """A training begins, goes on, or begins again in an emptied folder after a collapse."""

    def on_epoch(self, run: Run, row: dict[str, Any]) -> None:
        """An epoch has ended.

        Args:
            run: the run directory, which holds all rows so far.
            row: as in `metrics.jsonl`: epoch, images, seconds, train and validation figures in nats
                per image, and what the schedules have moved.
        """

    def on_end(self, run: Run) -> None:
        """The training has ended: test figures and, unless it was left out, the report are there.

        It is told too when a training stops early, by Ctrl-C or a loss that diverged.
        """
