"""Rules on requests that a filter never sees: its handlers are not asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from coprocess.desk.envoy.doctor.filters import AUTHZ, Filter, disabled_on, unused_overrides, upgrades_past
from coprocess.desk.envoy.doctor.findings import RULES
from coprocess.desk.envoy.yaml_files import YamlDocument
from coprocess.desk.findings import FileFinding, Severity

#: Whether a filter of ext_proc lets nobody in that it does not know.
Authenticates = Callable[[Filter], bool]
_NOBODY = ": nobody is authenticated"


def check_unasked(
    filters: list[Filter], documents: list[YamlDocument], authenticates: Authenticates
) -> Iterator[FileFinding]:
    yield from _of_disabled(filters, documents, authenticates)
    yield from _of_unused(filters, documents)
    yield from _of_matched(filters, authenticates)
    yield from _of_upgrades(filters, authenticates)


def _of_disabled(
    filters: list[Filter], documents: list[YamlDocument], authenticates: Authenticates
) -> Iterator[FileFinding]:
    """Routes that go past a filter: worth a look where it lets nobody in that it does not know."""
    for each, document, where in disabled_on(filters, documents):
        is_auth = each.kind == AUTHZ or authenticates(each)
        line, column = document.place(where)
        yield RULES.finding(
            Severity.WARNING if is_auth else Severity.NOTE,
            "envoy-route-disabled",
            document.path,
            YamlDocument.words(where),
            f"The filter {each.name} is disabled here.",
            f"No handler runs{_NOBODY if is_auth else ''}.",
            "Leave it out, unless the route is meant for everybody.",
            line,
            column,
        )


def _of_matched(filters: list[Filter], authenticates: Authenticates) -> Iterator[FileFinding]:
    for each in filters:
        if not each.is_matched:
            continue
        is_auth = each.kind == AUTHZ or authenticates(each)
        line, column = each.document.place(each.where)
        yield RULES.finding(
            Severity.WARNING if is_auth else Severity.NOTE,
            "envoy-route-disabled",
            each.document.path,
            YamlDocument.words(each.where),
            f"A matcher decides whether the filter {each.name} runs.",
            f"Where it does not, no handler runs{_NOBODY if is_auth else ''}.",
            "See that it lets out only what is meant for everybody.",
            line,
            column,
        )


def _of_upgrades(filters: list[Filter], authenticates: Authenticates) -> Iterator[FileFinding]:
    for each in filters:
        for upgrade in upgrades_past(each):
            is_auth = each.kind == AUTHZ or authenticates(each)
            line, column = each.document.place(each.where)
            yield RULES.finding(
                Severity.ERROR if is_auth else Severity.WARNING,
                "envoy-upgrade-unasked",
                each.document.path,
                YamlDocument.words(each.where),
                f"upgrade_configs has filters for {upgrade}, and {each.name} is not among them.",
                f"Who asks for that upgrade passes by the handlers{_NOBODY if is_auth else ''}.",
                "Leave the filters of the upgrade out: then it has those of all requests; or add this one.",
                line,
                column,
            )


def _of_unused(filters: list[Filter], documents: list[YamlDocument]) -> Iterator[FileFinding]:
    for override in unused_overrides(filters, documents):
        line, column = override.document.place(override.where)
        there = ", ".join(sorted({each.name for each in filters if each.kind == override.kind}))
        yield RULES.finding(
            *(Severity.ERROR, "envoy-route-unused", override.document.path),
            YamlDocument.words(override.where),
            f"No {override.kind} filter is named {override.filter_name}; there are: {there}.",
            "Envoy passes it over: other handlers run there than are meant.",
            "Give it the name that the filter has in http_filters.",
            *(line, column),
        )
