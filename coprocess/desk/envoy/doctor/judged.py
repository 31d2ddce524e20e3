"""A filter on a route, with the handlers that are to run there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from coprocess.api.moments import HookType
from coprocess.desk.envoy.doctor.filters import AUTHZ, Use
from coprocess.desk.envoy.doctor.findings import RULES
from coprocess.desk.envoy.yaml_files import YamlDocument
from coprocess.desk.findings import FileFinding, Severity
from coprocess.gateways.envoy.chain import Chain, Step

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?\Z")
_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Judged:
    """`chain` is None where it cannot be found: that is a finding of its own."""

    use: Use
    chain: Chain | None
    #: Of the service: how long a handler may take, and the largest body.
    timeout_s: float
    max_body_bytes: int

    @property
    def is_known(self) -> bool:
        return self.chain is not None

    @property
    def before(self) -> bool:
        return self.chain is not None and bool(self.chain.before)

    @property
    def after(self) -> bool:
        return self.chain is not None and bool(self.chain.after)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Those that run here: of ext_authz, CustomKeyCheck alone."""
        if self.chain is None:
            return ()
        is_authz = self.use.filter.kind == AUTHZ
        before = [
            step
            for moment, steps in self.chain.before
            for step in steps
            if not is_authz or moment is HookType.CustomKeyCheck
        ]
        return (*before, *(() if is_authz else self.chain.after))

    @property
    def authenticates(self) -> bool:
        if self.use.filter.kind == AUTHZ:
            return True
        return self.chain is not None and any(
            moment is HookType.CustomKeyCheck for moment, _ in self.chain.before
        )

    def reads(self, direction: str) -> bool:
        """Whether a handler may read that body."""
        if self.chain is None:
            return False
        if direction == "request":
            return self.chain.reads_request
        return any(step.uses_body for step in self.chain.after)

    def streams(self, direction: str) -> bool:
        """Whether a handler has the body of that direction in pieces."""
        if self.chain is None:
            return False
        steps = self.chain.before[-1][1] if direction == "request" and self.chain.before else ()
        return any(step.streams for step in (steps if direction == "request" else self.chain.after))

    @property
    def check_reads(self) -> bool:
        """Whether a handler of CustomKeyCheck may read the body."""
        return self.chain is not None and any(
            step.uses_body
            for moment, steps in self.chain.before
            for step in steps
            if moment is HookType.CustomKeyCheck
        )


def finding_at(
    judged: Judged, severity: Severity, rule: str, key: str, problem: str, effect: str, remedy: str
) -> FileFinding:
    """At `key` of the filter: where it is written, or at the filter."""
    use = judged.use
    where = (*use.filter.where, *key.split(".")) if key else use.filter.where
    line, column = use.filter.document.place(where)
    path, words = use.filter.document.path, YamlDocument.words(where)
    return RULES.finding(severity, rule, path, words, problem, effect, remedy, line, column)


def seconds(value: Any) -> float | None:
    """A duration; None where there is none, or what is given is none."""
    match = _DURATION.match(value) if isinstance(value, str) else None
    return None if match is None else float(match[1]) * _UNITS[match[2]]


def route_is_cleared(judged: Judged, key: str, problem: str, remedy: str) -> FileFinding:
    """Of either filter, where it has the route chosen anew."""
    return finding_at(
        judged,
        Severity.NOTE,
        "envoy-route-cleared",
        key,
        problem,
        "Whatever handlers edit may choose another route, whose filters are others.",
        remedy,
    )
