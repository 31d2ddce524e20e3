"""Native handlers in Kong: one plugin, whose configuration names the chain.

What happens to a request is what happens around a web app (`runtime.around`): Kong stands in the app's place,
is asked as little as the handlers need, and told of all edits together.
"""

from __future__ import annotations

import json
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from coprocess.api.context import current_call
from coprocess.api.held import HeldHeaders
from coprocess.api.moments import HookType
from coprocess.bounded import form_of
from coprocess.errors import BadMessage, ConfigError
from coprocess.gateways.kong import kept
from coprocess.gateways.kong.asked import AskedRequest, AskedResponse
from coprocess.gateways.kong.call import PluginCall
from coprocess.gateways.kong.elsewhere import run_elsewhere
from coprocess.gateways.kong.home import NATIVE
from coprocess.gateways.kong.sharing import Share
from coprocess.loading.body_use import hook_attributes
from coprocess.loading.hooks import Hook, HookTable
from coprocess.loading.loaded import Loaded, Problem
from coprocess.loading.resources import Spawn
from coprocess.runtime.around.adapter import Adapter
from coprocess.runtime.around.ending import InThread, run_now
from coprocess.runtime.around.request import RequestCall, RequestExchange
from coprocess.runtime.around.steps import BODY, Steps
from coprocess.runtime.held_event import message_of
from coprocess.runtime.service import Service

log = structlog.get_logger("coprocess")

VERSION: Final = "1.0.0"
#: Before what limits and transforms, after what terminates TLS and traces.
PRIORITY: Final = 1000
NAMES: Final = ("pre", "auth_check", "post_key_auth", "post", "response")
_LIST: Final = {"type": "array", "elements": {"type": "string"}}
SCHEMA: Final[list[Any]] = [
    *({name: _LIST} for name in NAMES),
    {"events": {"type": "map", "keys": {"type": "string"}, "values": _LIST}},
    {"config": {"type": "string"}},
]
#: The event that the log phase fires, with what Kong would log as its meta.
LOG_EVENT: Final = "Log"

#: Of a worker's number.
_MOST_DIGITS: Final = 9
#: For the resources to open, and for each async step at the end of a request.
_OPEN_S: Final = 30.0
_END_S: Final = 30.0
#: The length is Kong's to say.
_FRAMING: Final = frozenset({"Content-Length", "Transfer-Encoding"})


class _Exchange(RequestExchange):
    """Its request and response are always Kong's: of a handler that failed open, copies of that kind."""

    __slots__ = ()

    request: AskedRequest
    response: AskedResponse | None


class NativePlugin:
    """The plugin, as Kong runs it with one configuration. Its class is made by `native_class`."""

    adapter: Adapter[_Host]
    name = ""
    #: How long a request may take from its access to its response phase.
    keep_s = kept.DEFAULT_KEEP_S
    #: Where it is one of several workers.
    share: Share | None = None

    def __init__(self, config: Mapping[str, Any]) -> None:
        named = {key: config[key] for key in (*NAMES, "events") if config.get(key) is not None}
        api_id = config.get("route_id") or config.get("service_id") or ""
        self._adapter = self.adapter.twin(named or None, _config(config.get("config")), str(api_id))
        chain = self._adapter.chain
        self._first_before = _asked_first(step.hook for _, steps in chain.before for step in steps)
        self._first_after = _asked_first(step.hook for step in chain.after)
        self._ending = InThread(self._adapter, _END_S)
        self._key = f"coprocess_{self.name}"

    def _access(self, kong: Any) -> None:
        adapter = self._adapter
        exchange = _Exchange(AskedRequest(kong), adapter.spec, adapter.chain)
        adapter.began(exchange)
        try:
            key = self._before_upstream(kong, exchange)
        except BaseException as error:
            # What fails in a handler is answered; Kong may fail wherever it is asked.
            self._end(exchange, error)
            raise
        if key:
            kept.requests.keep(key, (self, exchange), self.keep_s, lambda: self._end(exchange))
        else:
            self._end(exchange)
        if (answer := exchange.answer) is not None:
            kong.response.exit(answer.status, answer.body, _together(answer.headers) or None)

    def _before_upstream(self, kong: Any, exchange: _Exchange) -> str:
        """Gives what the exchange is kept under for the response phase; empty: it ends here."""
        adapter = self._adapter
        if self._first_before:
            exchange.request.ask_for(self._first_before)
        self._drive(adapter.before_app(exchange), exchange)
        if exchange.answer is not None:
            return ""
        if exchange.has_session:
            kong.client.authenticate(None, {"id": exchange.session.token})
        _flush_request(kong, exchange.request)
        if not exchange.chain.after:
            return ""
        key = secrets.token_hex(8)
        if self.share is not None:
            key += f"-{self.share.number}"
        kong.ctx.shared.set(self._key, key)
        return key

    def _response(self, kong: Any) -> None:
        adapter = self._adapter
        if not (adapter.chain.after or len(kept.requests)):
            return
        # Also where there is nothing here to be run: the access phase may have had another configuration.
        key = str(kong.ctx.shared.get(self._key))
        found = kept.requests.take(key)
        if found is not None:
            plugin, exchange = found
            plugin._after_upstream(kong, exchange)
            return
        if not adapter.chain.after or self._is_run_elsewhere(key):
            return
        # Another plugin has answered before this one had the request.
        exchange = _Exchange(AskedRequest(kong), adapter.spec, adapter.chain)
        adapter.began(exchange)
        self._after_upstream(kong, exchange)

    def _is_run_elsewhere(self, key: str) -> bool:
        """Have the worker run this phase that has had the access phase: it has the request, and its state."""
        share, call = self.share, current_call.get()
        worker = key.rpartition("-")[2]
        if share is None or not isinstance(call, PluginCall) or not worker.isdecimal():
            return False
        if len(worker) > _MOST_DIGITS:
            raise BadMessage(
                f"{self._key} in kong.ctx.shared is {form_of(key)}. Expected: what the access phase has set"
            )
        number = int(worker)
        if number == share.number or number >= share.count:
            return False
        return run_elsewhere(call.event, share, number)

    def _after_upstream(self, kong: Any, exchange: _Exchange) -> None:
        adapter = self._adapter
        try:
            exchange.request.go_on(kong)
            exchange.response = response = AskedResponse(kong)
            if self._first_after:
                response.ask_for(self._first_after)
                exchange.request.ask_for(self._first_after)
            if exchange.chain.response_uses_body:
                _ = response.raw_body
            adapter.run_after(exchange, adapter.calls)
        except BaseException as error:
            self._end(exchange, error)
            raise
        self._end(exchange)
        _flush_response(kong, exchange.response)

    def _end(self, exchange: _Exchange, error: BaseException | None = None) -> None:
        """Run what the request leaves for its end."""
        lifetime = exchange.lifetime
        try:
            if lifetime is not None:
                if error is not None:
                    lifetime.note(error)
                if (steps := lifetime.end(self._ending)) is not None:
                    run_now(steps)
        finally:
            self._adapter.ended(exchange)

    def _log(self, kong: Any) -> None:
        listeners = self._adapter.chain.listeners_of(LOG_EVENT)
        service = self._adapter.service
        if not listeners or service is None:
            return
        meta = kong.log.serialize()
        payload = json.dumps(
            {"message": message_of(LOG_EVENT, meta if isinstance(meta, dict) else {})}, default=str
        )
        for name in listeners:
            service.events.trigger(name, payload)

    def _drive(self, steps: Steps, exchange: _Exchange) -> None:
        adapter = self._adapter
        for need in steps:
            if isinstance(need, RequestCall):
                adapter.calls.call(need)
            elif need is BODY:
                # In the event's own thread: a handler on a loop must not wait for Kong there.
                _ = exchange.request.raw_body
                exchange.given = None
            else:
                exchange.given = adapter.limited(exchange.session)


class _Host:
    """Handlers of one load: Kong's server makes another class for the next."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        service: Service,
        folders: list[Path],
        watches: bool,
        spawn: Spawn | None,
    ) -> None:
        self._load, self._service = load, service
        self._spawn = spawn or service.async_calls.spawn
        self._loaded = Loaded(HookTable())

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._loaded.problems)

    def open(self) -> Loaded:
        loaded = self._loaded = self._load()
        loaded.open(self._spawn, _OPEN_S)
        self._service.use(loaded.table)
        return loaded

    def trace(self) -> None:
        """The service of Kong's plugin server says whether calls are traced."""

    def close(self) -> None:
        self._loaded.close(_END_S)


def native_class(
    folders: Sequence[Path],
    name: str,
    app_config: Mapping[str, Any] | None = None,
    limits_store: str | None = None,
    keep_s: float = kept.DEFAULT_KEEP_S,
    share: Share | None = None,
) -> type[NativePlugin]:
    """The plugin of the handlers in `folders`, with the phases that they need.

    `limits_store`: where rate and quota are counted; None: in this process. `keep_s`, `share`: as of
    NativePlugin.

    Raises LoadError for handlers that cannot be loaded. They are open until the class is closed.
    """
    adapter = Adapter(NATIVE, list(folders), _Host, app_config=app_config, store=limits_store)
    adapter.open(None)
    moments = {hook.type for hook in adapter.gateway.table}
    names: dict[str, Any] = {"adapter": adapter, "name": name, "keep_s": keep_s, "share": share}
    names["access"] = NativePlugin._access
    if HookType.Response in moments:
        names["response"] = NativePlugin._response
    if HookType.Event in moments:
        names["log"] = NativePlugin._log
    made = type("Handlers", (NativePlugin,), names)
    weakref.finalize(made, _close, adapter)
    return made


def _close(adapter: Adapter[_Host]) -> None:
    """Close what a load before this one has open, when its last call has ended."""
    try:
        threading.Thread(target=adapter.close, name="close-handlers", daemon=True).start()
    except RuntimeError:  # The process ends.
        adapter.close()


def _config(text: Any) -> Mapping[str, Any]:
    """Raises ConfigError."""
    if text in (None, ""):
        return {}
    try:
        config = json.loads(text)
    except (TypeError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise ConfigError("config: no JSON object. Expected: one, as text, which handlers get as spec.config")
    return config


def _asked_first(hooks: Iterable[Hook]) -> set[str]:
    """What Kong is asked for before they run: what runs on a loop, or may, must not wait for Kong there."""
    hooks = list(hooks)
    if not any(hook.is_async or hook.app is not None for hook in hooks):
        return set()
    return set().union(*map(hook_attributes, hooks))


def _together(headers: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _edits(headers: HeldHeaders) -> tuple[dict[str, str | list[str]], list[str]]:
    """What is set, with all its values, and what is gone."""
    if (replaced := headers.replaced) is not None:
        return {name: replaced[name] for name in sorted(replaced) if name not in _FRAMING}, []
    edited = sorted(headers.edited - _FRAMING) if headers.edited else ()
    given = _together((name, value) for name in edited for value in headers.getall(name))
    return given, [name for name in edited if name not in given]


def _flush_request(kong: Any, request: AskedRequest) -> None:
    """Tell Kong of the edits: a call for each kind of them, and none where there are none."""
    given, gone = _edits(request.headers)
    for name in gone:
        kong.service.request.clear_header(name)
    if given:
        kong.service.request.set_headers(given)
    if request.has_new_path:
        kong.service.request.set_path(request.encoded_path)
    if request.has_new_query:
        kong.service.request.set_raw_query(request.query_string)
    if request.has_new_method:
        kong.service.request.set_method(request.method)
    if request.has_new_body:
        kong.service.request.set_raw_body(request.raw_body)


def _flush_response(kong: Any, response: AskedResponse) -> None:
    given, gone = _edits(response.headers)
    for name in gone:
        kong.response.clear_header(name)
    if response.has_new_body:
        # In this phase a body is replaced by an answer alone; the headers that came stay.
        kong.response.exit(response.status, response.raw_body, given or None)
        return
    if given:
        kong.response.set_headers(given)
    if response.has_new_status:
        kong.response.set_status(response.status)
