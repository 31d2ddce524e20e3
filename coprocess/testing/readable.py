"""What the fixtures show of requests and responses, and how they take headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from coprocess.api.body import Body
from coprocess.api.http import Headers, MultiHeaders
from coprocess.desk.findings import Finding, Severity
from coprocess.desk.tyk.simulator.headers import to_wire
from coprocess.desk.tyk.simulator.request import GatewayRequest
from coprocess.expected import expect_text
from coprocess.gateways.tyk.wire import MiniRequestObject, ResponseObject

HeaderArgument = Mapping[str, str] | Iterable[tuple[str, str]]


def wire_headers(headers: HeaderArgument) -> list[tuple[str, str]]:
    """One character a byte, as headers travel. Raises TypeError where one is no text."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [
        (
            expect_text("a header name", name),
            expect_text(f"header {name}: the value", value).encode().decode("latin-1"),
        )
        for name, value in pairs
    ]


def summary(got: str, method: str, target: str, findings: Iterable[Finding]) -> str:
    """What a failing assertion shows of a result: also what went wrong."""
    told = "; ".join(
        f"{finding.about}: {finding.problem}" if finding.about else finding.problem
        for finding in findings
        if finding.severity is not Severity.NOTE
    )
    return f"<{got} {method} {target}{f': {told}' if told else ''}>"


class Readable:
    """Something with headers and a body. `body` are the bytes that travel; the rest decodes them."""

    headers: Headers
    body: bytes
    _owner = "message"

    @property
    def text(self) -> str:
        """The body as text, without its Content-Encoding, in the charset of its Content-Type, else UTF-8.

        Raises BadBody (a UnicodeDecodeError) where it is none.
        """
        return _Decoded(self).text

    def json(self) -> Any:
        """The body parsed as JSON, as `text`. Raises BadBody (a JSONDecodeError) where it is none."""
        return _Decoded(self).json()


class _Decoded(Body):
    def __init__(self, shown: Readable) -> None:
        self._shown = shown
        self._owner = shown._owner

    @property
    def headers(self) -> Headers:
        return self._shown.headers

    @property
    def raw_body(self) -> bytes:
        return self._shown.body

    def _coding_of_body(self) -> str:
        return ", ".join(self._shown.headers.getall("Content-Encoding"))


class DispatchedRequest(Readable):
    """A request as it goes on after a hook, with all edits: what the next hook or the upstream would get.

    Fields that only the protocol's own message has, such as `set_headers`, are attributes too.
    """

    _owner = "request"

    def __init__(self, message: MiniRequestObject, request: GatewayRequest) -> None:
        self._message = message
        self.method = request.method
        #: Path and query.
        self.url = to_wire(request.url.request_uri)
        self.headers: Headers = MultiHeaders.unchecked([("Host", request.host), *request.headers.written()])
        self.body = request.body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def __repr__(self) -> str:
        return f"<DispatchedRequest {self.method} {self.url}>"


class DispatchedResponse(Readable):
    """A response as it goes on after a hook. `status` is 0 where the hook is for requests.

    Fields that only the protocol's own message has, such as `multivalue_headers`, are attributes too.
    """

    _owner = "response"

    def __init__(self, message: ResponseObject) -> None:
        self._message = message
        self.status = message.status_code
        pairs = [
            (header.key, to_wire(value)) for header in message.multivalue_headers for value in header.values
        ]
        self.headers: Headers = MultiHeaders.unchecked(pairs)
        self.body = message.raw_body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def __repr__(self) -> str:
        return f"<DispatchedResponse {self.status}, {len(self.body)} bytes>"
