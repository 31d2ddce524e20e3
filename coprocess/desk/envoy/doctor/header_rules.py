"""What the filter's rules on headers keep from handlers, and of what they do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coprocess.api.http import canonical_name
from coprocess.desk.envoy.doctor.filters import AUTHZ, dig
from coprocess.desk.envoy.doctor.header_use import HeaderUse, header_use
from coprocess.desk.envoy.doctor.judged import Judged, finding_at
from coprocess.desk.envoy.fields import Fields
from coprocess.desk.envoy.simulator.filter_config import forward_rules, mutation_rules
from coprocess.desk.envoy.simulator.headers import ForwardRules
from coprocess.desk.envoy.simulator.mutation_rules import MutationRules, Verdict
from coprocess.desk.findings import FileFinding, Severity
from coprocess.errors import ConfigError
from coprocess.gateways.envoy.guard import NOT_FOR_HANDLERS

#: Values that a pseudo-header may have at all.
_VALUES = {":method": "GET", ":status": "200", ":path": "/"}
_HOST = "host"


def check_header_rules(judged: Judged) -> Iterator[FileFinding]:
    is_authz = judged.use.filter.kind == AUTHZ
    settings = judged.use.settings
    key = "decoder_header_mutation_rules" if is_authz else "mutation_rules"
    given = settings.get(key)
    # Without rules, ext_authz takes all.
    if given is not None or not is_authz:
        yield from _edits(judged, key, given)
    if is_authz:
        kinds = ("allowed_headers", "disallowed_headers")
        forwards = {kind: settings[kind] for kind in kinds if kind in settings}
        yield from _hidden(judged, next(iter(forwards), ""), forwards)
    else:
        yield from _hidden(judged, "forward_rules", settings.get("forward_rules"))


def _edits(judged: Judged, key: str, given: Any) -> Iterator[FileFinding]:
    try:
        rules = MutationRules() if given is None else mutation_rules(Fields(given, key))
    except ConfigError as error:
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-edits-refused",
            key,
            f"{error}.",
            "Envoy refuses the configuration.",
            "Correct it.",
        )
        return
    refused = [
        (handler, name)
        for handler, use in _uses(judged)
        for name in sorted(use.edits)
        if canonical_name(name) not in NOT_FOR_HANDLERS
        and rules.judge_set(name, _VALUES.get(name, "x")) is not Verdict.TAKEN
    ]
    effect = "Envoy drops the edit, without a word."
    if rules.disallow_is_error:
        effect = "As disallow_is_error is set, each request gets 500."
    for handler, name in refused:
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-edits-refused",
            key,
            f'Handler "{handler}" edits {name}, and {key} {_why(rules, name)}.',
            effect,
            "Allow it, or leave the edit out.",
        )
    if not refused:
        yield from _unseen(judged, key, given, rules)


def _why(rules: MutationRules, name: str) -> str:
    if rules.disallow_expression is not None and rules.disallow_expression.fullmatch(name):
        return "refuse it by disallow_expression"
    if rules.disallow_all:
        return "refuse it by disallow_all"
    if name.startswith("x-envoy-"):
        return "do not say allow_envoy"
    if rules.disallow_system and name.startswith(":"):
        return "refuse it by disallow_system"
    return "do not say allow_all_routing"


def _unseen(judged: Judged, key: str, given: Any, rules: MutationRules) -> Iterator[FileFinding]:
    """Rules that may refuse what the code does not show."""
    if rules.disallow_all and rules.allow_expression is None:
        return  # It has a finding of its own.
    for name in ("disallow_all", "disallow_system", "disallow_expression", "disallow_is_error"):
        if dig(given, name):
            effect = "fails the request with 500" if rules.disallow_is_error else "is dropped, without a word"
            yield finding_at(
                judged,
                Severity.NOTE,
                "envoy-edits-refused",
                f"{key}.{name}",
                f"{key}.{name} is set.",
                f"What a handler edits against the rules {effect}.",
                "Leave it out, or see that handlers keep to it.",
            )
            return


def _hidden(judged: Judged, key: str, given: Any) -> Iterator[FileFinding]:
    if not given:
        return
    try:
        rules: ForwardRules = forward_rules(Fields(given, key))
    except ConfigError:
        return
    # ext_authz tells these apart.
    needed = [] if judged.use.filter.kind == AUTHZ else [":method", ":path"] if judged.before else []
    if judged.use.filter.kind != AUTHZ and judged.after:
        needed.append(":status")
    for name in needed:
        if not rules.allows(name):
            yield finding_at(
                judged,
                Severity.ERROR,
                "envoy-headers-hidden",
                key,
                f"{key} does not let {name} through.",
                "The service does not know what is asked for: it refuses each request.",
                "Add it to the headers that are allowed.",
            )
    for handler, use in _uses(judged):
        for name in sorted(use.reads):
            seen_as = ":authority" if name == _HOST else name
            if not rules.allows(seen_as):
                yield finding_at(
                    judged,
                    Severity.ERROR,
                    "envoy-headers-hidden",
                    key,
                    f'Handler "{handler}" reads {canonical_name(name)}, and {key} does not let it through.',
                    "The handler sees no such header, whatever the client sends.",
                    "Add it to the headers that are allowed.",
                )


def _uses(judged: Judged) -> Iterator[tuple[str, HeaderUse]]:
    """What the handlers that run there do to headers, by their name."""
    for step in judged.steps:
        if step.hook is not None:
            yield step.name, header_use(step.hook.handler)
