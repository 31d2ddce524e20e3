"""How the fixtures that stand for a gateway are asked: `get`, `post` and so on, over `request`."""

from __future__ import annotations

import asyncio
import json as json_module
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from coprocess.api.body import body_bytes
from coprocess.testing.readable import HeaderArgument, wire_headers

ResultT = TypeVar("ResultT")
Params = Mapping[str, str] | Iterable[tuple[str, str]]


class Verbs(ABC, Generic[ResultT]):
    """Requests by method."""

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: HeaderArgument = (),
        params: Params = (),
        body: str | bytes = b"",
        json: Any = None,
    ) -> ResultT:
        """Send a request through. `url` is path and query, the API's listen path included.

        `params` are added to the query; `json` is an alternative to `body`, and sets the content type.
        """
        pairs = wire_headers(headers)
        content = body_bytes(body)
        if json is not None:
            if content:
                raise TypeError("a request has body or json, not both")
            content = json_module.dumps(json).encode()
            if not any(name.lower() == "content-type" for name, _ in pairs):
                pairs.append(("Content-Type", "application/json"))
        if params:
            url = f"{url}{'&' if '?' in url else '?'}{urlencode(list(_pairs(params)))}"
        return self._sent(method, url, pairs, content)

    @abstractmethod
    def _sent(self, method: str, url: str, headers: list[tuple[str, str]], body: bytes) -> ResultT:
        """Send what `request` has put together."""

    def get(self, url: str, **options: Any) -> ResultT:
        """As `request`, whose options it takes."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Any) -> ResultT:
        """As `get`."""
        return self.request("HEAD", url, **options)

    def options(self, url: str, **options: Any) -> ResultT:
        """As `get`."""
        return self.request("OPTIONS", url, **options)

    def delete(self, url: str, **options: Any) -> ResultT:
        """As `get`."""
        return self.request("DELETE", url, **options)

    def post(self, url: str, **options: Any) -> ResultT:
        """As `get`."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> ResultT:
        """As `get`."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Any) -> ResultT:
        """As `get`."""
        return self.request("PATCH", url, **options)

    async def arequest(self, method: str, url: str, **options: Any) -> ResultT:
        """As `request`, in a thread: the test's event loop goes on, for an upstream that runs on it."""
        return await asyncio.to_thread(self.request, method, url, **options)

    async def aget(self, url: str, **options: Any) -> ResultT:
        """As `get`, by `arequest`."""
        return await self.arequest("GET", url, **options)

    async def apost(self, url: str, **options: Any) -> ResultT:
        """As `post`, by `arequest`."""
        return await self.arequest("POST", url, **options)


def _pairs(params: Params) -> Iterable[tuple[str, str]]:
    return params.items() if isinstance(params, Mapping) else params
