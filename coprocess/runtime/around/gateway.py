"""A gateway without messages: its calls are opened by requests in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coprocess.api.context import CallContext
from coprocess.api.moments import HookType
from coprocess.errors import ConfigError
from coprocess.loading.hooks import Hook, HookTable
from coprocess.runtime.around.chain import Chain, chain_of
from coprocess.runtime.gateway import Gateway, Opener
from coprocess.runtime.held_event import HeldEventCall, event_of
from coprocess.runtime.held_spec import HeldSpec


class AroundGateway(Gateway):
    """`chain` is what requests that begin now run. Raises ConfigError where it names what is not loaded."""

    def __init__(
        self,
        name: str,
        table: HookTable,
        spec: HeldSpec,
        chain: Callable[[], Mapping[str, Any] | None],
        *,
        needs_handlers: bool = False,
    ) -> None:
        """`name` is its home's. `chain` gives the names, and is asked with each load.

        `needs_handlers`: a table without any is refused, as every request would pass.
        """
        self.name = name
        self._needs_handlers = needs_handlers
        self.spec = spec
        self._named = chain
        #: Chains from before that requests may still run.
        self._left: list[Chain] = []
        #: Why requests are refused; None: they are not.
        self.problem: str | None = None
        self._table = table
        # Nothing serves yet: what it names may come with the first load.
        self.chain = chain_of(table, None, spec.api_id)

    def check_table(self, table: HookTable) -> None:
        if self._needs_handlers and not len(table):
            raise ConfigError("no handler is loaded, so every request would pass. Expected: one at least")
        chain_of(table, self._named(), self.spec.api_id)

    # As attributes of the base class.

    @property
    def table(self) -> HookTable:
        return self._table

    @table.setter
    def table(self, table: HookTable) -> None:
        try:
            chain = chain_of(table, self._named(), self.spec.api_id)
            self.problem = None
        except ConfigError as error:
            # `check_table` was content: it is gone since, as a resource did not open.
            self.problem, chain = str(error), self.chain
        if self.chain.has_app:
            self._left.append(self.chain)
        self._table, self.chain = table, chain

    @property
    def methods(self) -> Mapping[str, Opener]:
        return {}

    def holds(self, hook: Hook) -> bool:
        self._left = [chain for chain in self._left if chain.requests]
        return any(hook in chain.hooks for chain in self._left)

    def open_local_event(self, name: str, payload: str, caller: CallContext | None) -> HeldEventCall:
        hook = self.table.choose(HookType.Event, name, self.spec.api_id)
        return HeldEventCall(hook, event_of(name, payload, self.spec), self.spec)
