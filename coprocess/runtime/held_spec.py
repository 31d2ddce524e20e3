"""The `spec` that handlers get where the gateway sends none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from coprocess.api.messages import Spec


class HeldSpec(Spec):
    """`api_id`, `org_id` and `config`, as they were given."""

    __slots__ = ("_config", "api_id", "event_sink", "org_id")

    def __init__(self, api_id: str, org_id: str, config: Mapping[str, Any]) -> None:
        # Not properties, as in the base class: each call is counted by the API's id.
        self.api_id = api_id  # type: ignore[misc]  # it is to be set here only
        self.org_id = org_id  # type: ignore[misc]  # the same
        self._config = config
        #: Takes the events that its handlers trigger; None: no service runs.
        self.event_sink: Callable[[str, str], None] | None = None

    @property
    def config(self) -> dict[str, Any]:
        # As a gateway sends it: each call has its own.
        return deepcopy(dict(self._config))
