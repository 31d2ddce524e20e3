"""What is to be checked: the request that a CheckRequest has, and the chain of its route. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from coprocess.api.held import HeldRequest
from coprocess.api.moments import HookType
from coprocess.errors import BadMessage, HandlerFailed, UnknownHook
from coprocess.gateways.envoy import dynamic_metadata
from coprocess.gateways.envoy.call import Around, Traffic
from coprocess.gateways.envoy.chain import Chain, hooks_of
from coprocess.gateways.envoy.skimmed import Attributes, merged
from coprocess.gateways.envoy.unread_check import (
    NO_BODY,
    BodyOfCheck,
    UnreadFields,
    UnreadRequest,
    request_without_line,
)
from coprocess.gateways.envoy.wire import Metadata
from coprocess.loading.lifetime import Lifetime


class CheckTraffic(Traffic):
    """The request of a Check. Of its metadata nothing is looked at before somebody asks."""

    __slots__ = ("_attributes",)

    def __init__(self, request: HeldRequest, chain: Chain, around: Around, attributes: Attributes) -> None:
        # Not by the base class's: what only streams have is left out.
        self.request, self.response, self.spec = request, None, chain.spec
        self._session = self._state = self._metadata = self.answer = self.last_hook = None
        self.chain, self._around = chain, around
        self.lifetime = Lifetime() if chain.has_end else None
        self.has_body = self.is_failed = False
        self.failure_text = ""
        self.method = request._method
        self._attributes = attributes

    def _known_before(self) -> dict[str, str]:
        return dynamic_metadata.read_metadata(merged(Metadata, self._attributes.metadata_context))


def open_check(
    attributes: Attributes, chain: Chain, around: Around, max_headers: int, size_bytes: int
) -> CheckTraffic:
    """Of a message of that size. `chain` is that of the route, with all its moments.

    Raises BadMessage, UnknownHook, HandlerFailed.
    """
    if chain.of_checks is None:
        chain.of_checks = _only_checks(chain)
    chain = chain.of_checks
    http = attributes.request.http
    fields = UnreadFields(http)
    if size_bytes > _SMALLEST_HEADER_BYTES * max_headers and fields.count > max_headers:
        raise BadMessage(f"{fields.count} headers: max_headers is {max_headers}")
    method = http.method
    request = UnreadRequest(http, method, fields) if method else request_without_line(http, fields)
    traffic = CheckTraffic(request, chain, around, attributes)
    if chain.reads_request:
        traffic.has_body = BodyOfCheck(http, request._headers, request._method).is_whole
        if chain.one_check is not None and not traffic.has_body:
            raise HandlerFailed(NO_BODY)
    return traffic


def _only_checks(chain: Chain) -> Chain:
    """Raises UnknownHook."""
    others = [moment.name for moment, _ in chain.before if moment is not HookType.CustomKeyCheck]
    if chain.route.names is not None and (others or chain.after):
        there = ", ".join([*others, *(["Response"] if chain.after else [])])
        raise UnknownHook(f"ext_authz runs handlers of CustomKeyCheck only, and {there} are named")
    kept = tuple(each for each in chain.before if each[0] is HookType.CustomKeyCheck)
    if not kept:
        raise UnknownHook(
            "nothing is to run: no handler of CustomKeyCheck is loaded for this route, or named"
        )
    ((_, steps),) = kept
    checks = replace(chain, before=kept, after=(), hooks=hooks_of(chain.table, steps))
    if len(steps) == 1 and not checks.has_end:
        checks.one_check = steps[0].hook
    return checks


_SMALLEST_HEADER_BYTES: Final = 2
