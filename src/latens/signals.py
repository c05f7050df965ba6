"""Signals that ask a program to end, and what it does then."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

# Ctrl-C; what schedulers and `kill` send; a terminal that closes, which Windows does not have
ENDINGS = [signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGHUP", None)])]


# In the environment of a process whose stdin is a pipe from the one that started it
ENDS_WITH_PARENT = "LATENS_ENDS_WITH_PARENT"


def end_with_parent() -> None:
    """End as by SIGTERM when the process that started this one has ended, however it did.

    Does nothing unless it has asked for it by `ENDS_WITH_PARENT`.
    """
    if os.environ.pop(ENDS_WITH_PARENT, None) is None:
        return

    def wait() -> None:
        while os.read(0, 1):  # empty once nobody holds the other end of the pipe
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def handled(
    signals: Sequence[signal.Signals], handler: Callable[[int, Any], None]
) -> Iterator[ExitStack]:
    """Inside, these signals go to the handler; closing what is yielded ends that early.

    SIGHUP stays ignored where it is, as `nohup` asks for; SIGINT does not, which shells ignore for
    what runs in the background. Only the main thread can do this: in others nothing changes.
    """
    with ExitStack() as restored:
        if threading.current_thread() is threading.main_thread():
            for each in signals:
                before = signal.getsignal(each)
                if before is not signal.SIG_IGN or each is signal.SIGINT:
                    signal.signal(each, handler)
                    restored.callback(signal.signal, each, before)
        yield restored
