"""The `spec` that handlers get where the gateway sends none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from coprocess.api.messages import Spec


class HeldSpec(Spec):
    """`api_id`, `org_id` and `config`, as they were given."""

    __slots__ = ("_api_id", "_config", "_org_id", "event_sink")

    def __init__(self, api_id: str, org_id: str, config: Mapping[str, Any]) -> None:
        self._api_id = api_id
        self._org_id = org_id
        self._config = config
        #: Takes the events that its handlers trigger; None: no service runs.
        self.event_sink: Callable[[str, str], None] | None = None

    @property
    def api_id(self) -> str:
        return self._api_id

    @property
    def org_id(self) -> str:
        return self._org_id

    @property
    def config(self) -> dict[str, Any]:
        # As a gateway sends it: each call has its own.
        return deepcopy(dict(self._config))
