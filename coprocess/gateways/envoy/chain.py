"""The handlers of one route, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from coprocess.api.moments import HookType
from coprocess.errors import ConfigError, UnknownHook
from coprocess.gateways.envoy.overrides import Overrides
from coprocess.gateways.envoy.route import API_ID, Route
from coprocess.loading.body_use import hook_uses_body, streams_body
from coprocess.loading.chains import REQUEST_MOMENTS, names_by_order, of_api
from coprocess.loading.hooks import Hook, HookTable
from coprocess.runtime.held_spec import HeldSpec
from coprocess.text import printable

#: The tables `[chains.NAME]` of the settings file: names of handlers, by moment.
Chains = Mapping[str, Mapping[HookType, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Step:
    """A handler in its place. `hook` is None where the request's headers choose between versions."""

    moment: HookType
    name: str
    hook: Hook | None
    uses_body: bool
    #: It has the body in pieces, while that passes.
    streams: bool = False


@dataclass(slots=True, eq=False)
class Chain:
    """Of a moment where nothing runs there is no entry in `before`."""

    before: tuple[tuple[HookType, tuple[Step, ...]], ...]
    after: tuple[Step, ...]
    spec: HeldSpec
    route: Route
    table: HookTable
    #: All `@Event` functions.
    listeners: tuple[str, ...] = ()
    #: All that may run. A stream needs them until it ends: those behind a body that is to come, too.
    hooks: frozenset[Hook] = field(default_factory=frozenset)
    #: Whether any handler leaves something for the end of the stream.
    has_end: bool = False
    #: By the body modes of the filter: see `overrides_of`.
    _overrides: dict[tuple[int, int], Overrides] = field(init=False, default_factory=dict)

    #: Whether a handler has a body in pieces.
    streams: bool = field(init=False)
    #: Whether a handler may read the request's body, or the response's.
    reads_request: bool = field(init=False)
    reads_response: bool = field(init=False)
    #: Whether a stream of this chain may be one of HeadersOnly.
    wants_headers_only: bool = field(init=False)
    #: The hooks before the upstream, and after it, where nothing is to be done but to run them; else None.
    plain_before: tuple[Hook, ...] | None = field(init=False)
    plain_after: tuple[Hook, ...] | None = field(init=False)
    #: Whether the request's headers choose between versions of a handler: they may find none.
    chooses: bool = field(init=False)
    #: The same for ext_authz; None: nobody has asked yet.
    of_checks: Chain | None = field(init=False, default=None)
    #: Of such a chain: its one handler, where that leaves nothing for the end; else None.
    one_check: Hook | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        last = self.before[-1][1][-1:] if self.before else ()
        self.streams = any(step.streams for step in (*last, *self.after[-1:]))
        self.reads_request = any(step.uses_body for _, steps in self.before for step in steps)
        self.chooses = any(step.hook is None for _, steps in self.before for step in steps)
        self.reads_response = any(step.uses_body for step in self.after)
        self.wants_headers_only = not (self.streams or self.reads_request or self.reads_response)
        is_checked = any(moment is HookType.CustomKeyCheck for moment, _ in self.before)
        self.plain_before = (
            None if is_checked else _plain([step for _, steps in self.before for step in steps])
        )
        self.plain_after = _plain(self.after)

    def overrides_of(self, request_mode: int, response_mode: int) -> Overrides:
        """Of filters with these body modes: one of others may allow what this one does not."""
        modes = request_mode, response_mode
        return self._overrides.get(modes) or self._overrides.setdefault(modes, Overrides())


def _plain(steps: Sequence[Step]) -> tuple[Hook, ...] | None:
    hooks = tuple(step.hook for step in steps if step.hook is not None)
    return hooks if len(hooks) == len(steps) else None


def chain_of(table: HookTable, route: Route, chains: Chains) -> Chain:
    """Raises UnknownHook for what is not loaded, or where nothing is there to run."""
    api_id = route.api_id
    if route.chain:
        names = chains.get(route.chain)
        if names is None:
            there = ", ".join(sorted(chains)) or "none"
            raise UnknownHook(printable(f'no chain "{route.chain[:64]}"; there are: {there}'))
    else:
        names = route.names or {}
    is_all = not route.chain and route.names is None
    by_moment: dict[HookType, list[Step]] = {}
    for moment in (*REQUEST_MOMENTS, HookType.Response):
        wanted = _all_names(table, moment, api_id) if is_all else names.get(moment, ())
        by_moment[moment] = [_step(table, moment, name, api_id) for name in wanted]
    if not any(by_moment.values()):
        raise UnknownHook("nothing is to run: no handlers are loaded for this route, and none are named")
    _check_streams([step for moment in REQUEST_MOMENTS for step in by_moment[moment]])
    _check_streams(by_moment[HookType.Response])
    spec = HeldSpec(api_id, route.org_id, route.config)
    after = tuple(by_moment[HookType.Response])
    running = hooks_of(table, [step for steps in by_moment.values() for step in steps])
    return Chain(
        before=tuple((moment, tuple(by_moment[moment])) for moment in REQUEST_MOMENTS if by_moment[moment]),
        after=after,
        spec=spec,
        route=route,
        table=table,
        listeners=tuple(_all_names(table, HookType.Event, api_id)),
        hooks=running,
        has_end=any(hook.is_of_request for hook in running),
    )


def apis_of_unrun(chain: Chain) -> list[str]:
    """The APIs whose handlers of CustomKeyCheck are not in `chain`, as nobody has said which API it is of.

    Empty where another one runs, or where the route names handlers, or its API.
    """
    route = chain.route
    if route.api_id or route.chain or route.names is not None:
        return []
    if any(moment is HookType.CustomKeyCheck for moment, _ in chain.before):
        return []
    return sorted(
        {hook.api_id for hook in chain.table if hook.type is HookType.CustomKeyCheck and hook.api_id}
    )


def check_authenticates(chain: Chain) -> None:
    """Raises UnknownHook: those who forgot to tell the API would let everybody by."""
    if apis := apis_of_unrun(chain):
        raise UnknownHook(
            printable(
                f"handlers of CustomKeyCheck are for APIs ({', '.join(apis)}), and nothing says which it is. "
                f"Expected: {API_ID}, or request_attributes: [xds.route_name] and a route with a name"
            )
        )


def hooks_of(table: HookTable, steps: Iterable[Step]) -> frozenset[Hook]:
    """What the steps may run."""
    return frozenset(
        hook
        for step in steps
        for hook in ([step.hook] if step.hook is not None else _versions(table, step.moment, step.name))
    )


def check_chains(table: HookTable, chains: Chains) -> None:
    """Raises ConfigError where a chain names what is not loaded, or nothing: no request could pass it."""
    for chain, moments in chains.items():
        where = f"chains.{chain}"
        if not any(moments.values()):
            raise ConfigError(printable(f"{where}: names no handler"))
        for moment, names in moments.items():
            for name in names:
                others = {hook.type for hook in table if hook.name == name}
                if moment in others:
                    continue
                declared = " and ".join(sorted(each.name for each in others))
                found = f'"{name}" is a handler of {declared}' if others else f'"{name}" is not loaded'
                raise ConfigError(printable(f"{where}: expected a handler of {moment.name}, and {found}"))


def _all_names(table: HookTable, moment: HookType, api_id: str) -> list[str]:
    return names_by_order(of_api(table, api_id), moment)


def _check_streams(steps: list[Step]) -> None:
    """Raises UnknownHook: headers go out before the first piece, and a piece is gone before the second."""
    for step in steps:
        if step.streams and (step is not steps[-1] or any(each.uses_body for each in steps)):
            raise UnknownHook(
                printable(
                    f'{step.moment.name} hook "{step.name}" asks for stream(): expected as the last handler '
                    "before the upstream, or of Response, and none that reads the whole body"
                )
            )


def _step(table: HookTable, moment: HookType, name: str, api_id: str) -> Step:
    hook = table.find(moment, name)
    if hook is not None:
        return _step_of(moment, name, hook)
    # Raises where none is there.
    hook = table.choose(moment, name, api_id)
    versions = _versions(table, moment, name)
    if not any(each.version for each in versions):
        return _step_of(moment, name, hook)
    of_all = [_step_of(moment, name, each) for each in versions]
    if any(each.streams for each in of_all):
        raise UnknownHook(printable(f'{moment.name} hook "{name}" asks for stream(), and has versions'))
    return Step(moment, name, None, any(each.uses_body for each in of_all))


def _step_of(moment: HookType, name: str, hook: Hook) -> Step:
    streams = streams_body(hook.handler)
    # What asks for pieces does not want the whole, unless it says so.
    return Step(moment, name, hook, hook.body is True or (not streams and hook_uses_body(hook)), streams)


def _versions(table: HookTable, moment: HookType, name: str) -> list[Hook]:
    return [hook for hook in table if hook.type is moment and hook.name == name]
