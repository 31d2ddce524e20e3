"""What an ASGI app may send, as the specification has it: a judge between a server and an app."""

from __future__ import annotations

from typing import Any


class Judged:
    """`send` of one HTTP request. Raises AssertionError for what a server need not take."""

    def __init__(self, scope: Any, send: Any) -> None:
        self._send = send
        self._is_head = scope["method"] == "HEAD"
        self.start: Any = None
        self.body = b""
        self.has_ended = self._has_body_ended = False

    async def __call__(self, message: Any) -> None:
        kind = message["type"]
        assert not self.has_ended, f"{kind} after the end"
        if kind == "http.response.start":
            assert self.start is None, "two starts"
            assert type(message["status"]) is int
            for name, value in message.get("headers", ()):
                assert type(name) is type(value) is bytes
                assert name == name.lower(), name
            self.start = message
        elif kind == "http.response.body":
            assert self.start is not None, "a body before the start"
            assert not self._has_body_ended, "a body after the body's end"
            assert type(message.get("body", b"")) is bytes
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                self._end_body()
        else:
            assert kind == "http.response.trailers", kind
            assert self.start is not None, "trailers without a start"
            assert self.start.get("trailers"), "trailers that nobody announced"
            assert self._has_body_ended, "trailers before the body's end"
            self.has_ended = not message.get("more_trailers", False)
        await self._send(message)

    def _end_body(self) -> None:
        self._has_body_ended = True
        self.has_ended = not self.start.get("trailers", False)
        lengths = [int(value) for name, value in self.start.get("headers", ()) if name == b"content-length"]
        assert len(lengths) < 2, lengths
        if lengths and not self._is_head and self.start["status"] not in (204, 304):
            assert lengths == [len(self.body)], f"{lengths[0]} told, {len(self.body)} sent"
