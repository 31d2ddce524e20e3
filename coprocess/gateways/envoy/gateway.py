"""Envoy at work: its streams of ext_proc, its checks of ext_authz, and the chains of their routes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from coprocess.api.context import CallContext
from coprocess.api.held_session import HeldSession
from coprocess.api.moments import HookType
from coprocess.errors import CoprocessError, HandlerFailed, ShuttingDown
from coprocess.gateways.envoy.call import Traffic
from coprocess.gateways.envoy.chain import Chain, Chains, chain_of, check_authenticates, check_chains
from coprocess.gateways.envoy.check import CheckCall
from coprocess.gateways.envoy.check_reply import closed, failed_reply
from coprocess.gateways.envoy.check_steps import CheckChain, WaitingChecks
from coprocess.gateways.envoy.checked import open_check
from coprocess.gateways.envoy.early_messages import MOST_BYTES_OF_ALL, EarlyBytes
from coprocess.gateways.envoy.exchange import Exchange
from coprocess.gateways.envoy.header_messages import route_name
from coprocess.gateways.envoy.headers_only import ChainOfRoute
from coprocess.gateways.envoy.limit_asks import LimitAsks
from coprocess.gateways.envoy.route import Route, as_text, is_meant, route_of
from coprocess.gateways.envoy.skimmed import attributes_of, items_of
from coprocess.gateways.envoy.stream import EnvoyStream, refusal, refuse
from coprocess.gateways.envoy.wire import CHECK, PROCESS
from coprocess.loading.hooks import Hook, HookTable
from coprocess.loading.lifetime import Lifetime
from coprocess.runtime.around.ending import InThread, run_now
from coprocess.runtime.gateway import Gateway, Opener
from coprocess.runtime.held_event import HeldEventCall, event_of, message_of
from coprocess.runtime.held_spec import HeldSpec
from coprocess.runtime.registration import GatewayOptions
from coprocess.runtime.session_limits import Limiter
from coprocess.runtime.streaming import ChainedHandler, StreamHandler, Streaming

if TYPE_CHECKING:
    from coprocess.runtime.service import Service
    from coprocess.transport.engine import BidiRpc, FailedReply, Metadata, Rpc

#: Keys and values.
Said = tuple[tuple[str, object], ...]

log = structlog.get_logger("coprocess")

#: What is async at the end of a request has so long.
_END_S = 5.0
#: Routes whose chains are kept ready.
_MAX_KEPT = 1024
#: Characters of what such a route says. What says more is looked up each time: strangers may say anything.
_LONGEST_KEPT = 16_384


class EnvoyGateway(Gateway, Streaming):
    """Serves both filters on the handlers of `table`."""

    name = "envoy"

    def __init__(self, table: HookTable, options: GatewayOptions) -> None:
        self._options = options
        self.max_headers = options.max_headers
        self._kept: dict[object, Chain] = {}
        #: By the metadata's identity, which is that of a list as long as that is held here.
        self._known: dict[int, tuple[Metadata, ChainOfRoute]] = {}
        self._chains: Chains = {}
        #: Those that `check_table` was content with, for the table that is to come.
        self._checked: Chains | None = None
        self._table = table
        self._streams: set[EnvoyStream] = set()
        self._asks = LimitAsks()
        self.early_bytes = EarlyBytes(MOST_BYTES_OF_ALL)
        #: Those in steps, until they are ended.
        self._checks: set[CheckChain] = set()
        self._waiting = WaitingChecks()
        self.service: Service | None = None
        self._ending = InThread(self, _END_S)
        self._limiter: Limiter | None = None
        self._limiter_lock = threading.Lock()

    # Not a property of the base class, which declares an attribute.
    @property
    def table(self) -> HookTable:
        return self._table

    @table.setter
    def table(self, table: HookTable) -> None:
        checked, self._checked = self._checked, None
        self._chains = self._options.chains() if checked is None else checked
        self._table = table
        # Last: a chain that is made meanwhile of the old table must not stay.
        self._kept = {}
        self._known = {}  # These know the chains that they found last.

    def check_table(self, table: HookTable) -> None:
        chains = self._options.chains()
        check_chains(table, chains)
        self._checked = chains

    @property
    def methods(self) -> Mapping[str, Opener]:
        return {}

    @property
    def chained_methods(self) -> Mapping[str, ChainedHandler]:
        return {CHECK: self.check}

    @property
    def failed_replies(self) -> Mapping[str, FailedReply]:
        return {CHECK: failed_reply, PROCESS: refusal}

    @property
    def bidi_methods(self) -> Mapping[str, StreamHandler]:
        return {PROCESS: self.process}

    # Streams.

    def process(self, service: Service, rpc: BidiRpc) -> None:
        """Take a stream of ext_proc."""
        self.service = service
        if service.is_draining:
            refuse(rpc, ShuttingDown("the service is shutting down"))
            return
        metadata = rpc.metadata()
        known = self._known.get(id(metadata))
        finder = self._finder(metadata) if known is None or known[0] is not metadata else known[1]
        self._streams.add(EnvoyStream(service, rpc, finder, self))

    def _finder(self, metadata: Metadata) -> ChainOfRoute:
        """Finds the chain that the metadata says. Calls of one route share a list, on the http2 engine."""
        said: Said = tuple({key: as_text(value) for key, value in metadata if is_meant(key)}.items())

        #: The last chain, of those that were kept then: to find it, all that was said is compared.
        last: tuple[object, Chain] | None = None

        def chain_of_route(name: str) -> Chain:
            nonlocal last
            if name:
                return self._chain(said, name)
            kept = self._kept
            if last is None or last[0] is not kept or len(kept) > _MAX_KEPT:
                last = kept, self._chain(said, "")
            return last[1]

        known = self._known
        if len(known) >= _MAX_KEPT:
            known.clear()
        known[id(metadata)] = metadata, chain_of_route
        return chain_of_route

    def new_exchange(self, chain_of_route: ChainOfRoute) -> Exchange:
        options = self._options
        return Exchange(
            lambda first: chain_of_route(route_name(first)), self, options.max_body_bytes, options.max_headers
        )

    def ended(self, stream: EnvoyStream) -> None:
        traffic = stream.traffic
        stream.let_go()
        lifetime = None if traffic is None else traffic.lifetime
        if lifetime is None:
            self._streams.discard(stream)
            return
        self.end(lifetime, lambda: self._streams.discard(stream))

    def end(self, lifetime: Lifetime | None, ended: Callable[[], None]) -> None:
        """Run what a request has left for its end, then `ended`. From any thread."""
        steps = None if lifetime is None else lifetime.end(self._ending)
        if steps is None or self.service is None:
            ended()
            return

        def run() -> None:
            try:
                run_now(steps)
            except Exception:
                log.exception("the end of a request failed")
            finally:
                ended()

        self.service.in_thread(run)

    @property
    def open_streams(self) -> int:
        return len(self._streams) + len(self._asks) + len(self._checks)

    def give_up(self) -> None:
        for stream in list(self._streams):
            stream.give_up()

    def holds(self, hook: Hook) -> bool:
        chains = [stream.chain for stream in list(self._streams)]
        return any(chain is not None and hook in chain.hooks for chain in chains) or any(
            check.holds(hook) for check in list(self._checks)
        )

    # Checks.

    def check(self, service: Service, rpc: Rpc) -> None:
        """Answer a Check of ext_authz."""
        since_s = time.monotonic()
        self.service = service
        try:
            if service.is_draining:
                raise ShuttingDown("the service is shutting down")
            message = rpc.payload
            attributes = attributes_of(message)
            extensions = attributes.context_extensions
            # To go through them takes longer than to read the message: most routes say one.
            said = extensions[0] if len(extensions) == 1 else tuple(extensions)
            chain = self._kept.get(said) or self._chain_of_check(said, extensions)
            traffic = open_check(attributes, chain, self, self._options.max_headers, len(message))
            hook = traffic.chain.one_check
            if hook is not None:
                service.take(CheckCall(hook, traffic), rpc, since_s)
            else:
                self._check_in_steps(service, rpc, traffic)
        except Exception as error:  # noqa: BLE001 - an RPC error might let in
            rpc.respond(closed(service, error))

    def _chain_of_check(self, said: object, extensions: Sequence[bytes]) -> Chain:
        """Keep the chain by the bytes that a route says, too: they are there before anything is read."""
        kept = self._kept
        chain = self.chain(items_of(extensions), "")
        _keep(kept, said, chain, sum(map(len, extensions)))
        return chain

    def _check_in_steps(self, service: Service, rpc: Rpc, traffic: Traffic) -> None:
        check = CheckChain(service, rpc, traffic, self._waiting, self._ended_check)
        self._checks.add(check)
        if service.async_calls.is_read_here():
            # A sync handler would hold up all async ones.
            check.in_thread(check.begin)
        else:
            check.begin()

    def _ended_check(self, check: CheckChain) -> None:
        self.end(check.lifetime, lambda: self._checks.discard(check))

    # Of both.

    def chain(self, said: Mapping[str, object], default_api_id: str) -> Chain:
        """The chain of a route that says this. Raises CoprocessError."""
        return self._chain(tuple(said.items()), default_api_id)

    def _chain(self, said: Said, default_api_id: str) -> Chain:
        key = said, default_api_id
        kept = self._kept
        chain = kept.get(key)
        if chain is None:
            route = route_of({name: str(value) for name, value in said})
            if not route.api_id and default_api_id:
                route = _with_api_id(route, default_api_id)
            chain = chain_of(self._table, route, self._chains)
            check_authenticates(chain)
            size = len(default_api_id) + sum(len(name) + len(str(value)) for name, value in said)
            _keep(kept, key, chain, size)
        return chain

    def fire(self, chain: Chain, event: str, message: str, about: Mapping[str, str]) -> None:
        if self.service is None:
            return
        payload = json.dumps({"message": message_of(event, {"Message": message, "Origin": "", **about})})
        for name in chain.listeners:
            self.service.events.trigger(name, payload)

    def limited(self, session: HeldSession, api_id: str) -> str:
        try:
            limiter = self._limiter or self._make_limiter()
            return limiter.exceeded(session, api_id)
        except Exception as error:  # noqa: BLE001 - whatever fails lets nobody pass
            text = str(error) if isinstance(error, CoprocessError) else f"{type(error).__name__}: {error}"
            log.error("a rate or quota could not be kept: the request is refused", reason=text)
            return "unknown"

    def _make_limiter(self) -> Limiter:
        with self._limiter_lock:  # Of two, each would count apart.
            if self._limiter is None:
                self._limiter = Limiter(self._options.limits_store())
            return self._limiter

    def tell_failed(self, hook: Hook, api_id: str, error: HandlerFailed) -> None:
        if self.service is not None:
            self.service.tell_failed(hook, api_id, error)

    def answer_by_limits(self, traffic: Traffic, rpc: Rpc, limit_s: float | None) -> None:
        service = self.service
        assert service is not None  # noqa: S101 - it has taken the Check
        self._asks.ask(service, traffic, rpc, service.options.timeout_s if limit_s is None else limit_s)

    def end_overdue(self, now_s: float) -> None:
        if self.service is not None and self._asks:
            self._asks.end_overdue(self.service, now_s)
        if self._waiting:
            self._waiting.end_overdue(now_s)

    def open_local_event(self, name: str, payload: str, caller: CallContext | None) -> HeldEventCall:
        spec = HeldSpec("", "", {}) if caller is None else HeldSpec(caller.api_id, caller.org_id, {})
        version = None if caller is None else caller.version
        hook = self._table.choose(HookType.Event, name, spec.api_id, version=version)
        return HeldEventCall(hook, event_of(name, payload, spec), spec)


def _keep(kept: dict[object, Chain], said: object, chain: Chain, size: int) -> None:
    """For the next that says so, in that many characters.

    `kept` is what the gateway had before `chain` was looked up: a reload since then has another.
    """
    if size <= _LONGEST_KEPT:
        if len(kept) >= _MAX_KEPT:
            kept.clear()
        kept[said] = chain


def _with_api_id(route: Route, api_id: str) -> Route:
    from dataclasses import replace

    return replace(route, api_id=api_id)
