"""`latens serve`: the service on a port, until it is told to end."""

import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from latens.errors import LatensError
from latens.run.directory import Run
from latens.serving.limits import Limits

GRACE = 30  # seconds for requests that have begun, when the service is told to end
KEPT_ALIVE = 75  # seconds: longer than clients keep theirs, which would meet a closed one
MOST_CONNECTIONS = 1_000


def serve(
    path: str | Path | Run,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    batch_size: int = 256,
    limits: Limits | None = None,
    device: str = "auto",
    listening: Callable[[str], None] = print,
) -> None:
    """Answer requests until SIGINT or SIGTERM; requests that have begun are answered first.

    Args:
        path: a run, its directory, or a pretrained model by name.
        port: 0: any that is free.
        batch_size: images of several requests that are computed at once.
        limits: of requests; None: the defaults of `Limits`.
        listening: told the address, as soon as requests are accepted.

    Raises:
        LatensError: packages that are missing, a run or an option that cannot be used, or an
            address that cannot be listened at.
    """
    if batch_size < 1:
        raise LatensError(f"batch_size is {batch_size}: it must be 1 or more")
    try:
        import uvicorn

        from latens.serving.app import app_of
    except ImportError as error:
        raise LatensError(f"serve needs {error.name}: pip install 'latens[serve]'") from None

    class Server(uvicorn.Server):
        """Ends with status 0, where uvicorn's own would raise the signal again."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {
                each: signal.signal(each, self.handle_exit)
                for each in (signal.SIGINT, signal.SIGTERM)
            }
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

    app = app_of(path, limits, batch_size, device)
    with _listening(host, port) as listener:
        config = uvicorn.Config(
            app,
            log_level="warning",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=KEPT_ALIVE,
        )
        at = f"[{host}]" if ":" in host else host
        listening(f"http://{at}:{listener.getsockname()[1]}")
        sys.stdout.flush()
        Server(config).run([listener])


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise LatensError(f"port is {port}: it must be from 0 to {2**16 - 1}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2_048)
        # Of the connections too: asyncio sets it only where a socket names its protocol, and an
        # answer in two packets would wait 40 ms for the first to be acknowledged
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        why = error.strerror or error
        raise LatensError(f"cannot listen at {host}, port {port}: {why}") from None
