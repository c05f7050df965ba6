"""Refuses requests before their bodies are read as images."""

import contextlib

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latens.serving.limits import Limits


class Limited:
    """Refuses requests that are too large (413), or too many from one address (429)."""

    def __init__(self, app: ASGIApp, limits: Limits):
        self.app, self.limits = app, limits
        self.most_bytes = int(limits.megabytes * 2**20)
        self.rate = RateLimitItemPerSecond(max(1, limits.rate))
        self.seen = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client = (scope.get("client") or ("unknown",))[0]
        is_health = scope["path"] == "/health"
        if self.limits.rate and not is_health and not self.seen.hit(self.rate, client):
            refusal = f"more than {self.limits.rate} requests in a second: come again later"
            response = JSONResponse({"detail": refusal}, 429, {"Retry-After": "1"})
            await response(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > self.most_bytes:
            await self._too_large()(scope, receive, send)
            return
        await self._counted(scope, receive, send)

    def _too_large(self) -> JSONResponse:
        refusal = f"the request has more than {self.limits.megabytes:g} MiB"
        return JSONResponse({"detail": refusal}, 413)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request whose bytes are counted as they come, for its length may not be declared."""
        received, is_too_large = 0, False

        async def counted() -> Message:
            nonlocal received, is_too_large
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.most_bytes:
                is_too_large = True
                raise _TooLargeError
            return message

        async def unless_too_large(message: Message) -> None:
            if not is_too_large:  # what the application makes of the exception is not the reason
                await send(message)

        with contextlib.suppress(_TooLargeError):
            await self.app(scope, counted, unless_too_large)
        if is_too_large:
            await self._too_large()(scope, receive, send)


class _TooLargeError(Exception):
    pass
