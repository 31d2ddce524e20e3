"""All rules on Envoy's configuration, in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from coprocess.api.moments import HookType
from coprocess.desk.envoy.doctor.authorizers import check_authorizer
from coprocess.desk.envoy.doctor.clusters import check_services
from coprocess.desk.envoy.doctor.filters import (
    AUTHZ,
    PROC,
    Filter,
    Use,
    dig,
    filters_in,
    uses_of,
)
from coprocess.desk.envoy.doctor.findings import RULES
from coprocess.desk.envoy.doctor.header_rules import check_header_rules
from coprocess.desk.envoy.doctor.judged import Judged
from coprocess.desk.envoy.doctor.policies import policy_filters
from coprocess.desk.envoy.doctor.processors import check_processor
from coprocess.desk.envoy.doctor.unasked import check_unasked
from coprocess.desk.envoy.fields import list_of
from coprocess.desk.envoy.formats import as_sent, formats_in
from coprocess.desk.envoy.yaml_files import YamlDocument, read_yaml, walk
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.not_loaded import not_loaded
from coprocess.errors import BadMessage, ConfigError, CoprocessError, UnknownHook
from coprocess.gateways.envoy.chain import Chain, Chains, apis_of_unrun, chain_of
from coprocess.gateways.envoy.route import (
    API_ID,
    CONFIG,
    ORG_ID,
    PREFIX,
    Route,
    is_meant,
    route_of,
)
from coprocess.loading.loaded import Loaded, Problem

#: Keys that do not say which handlers run.
_SAID_OF_THE_API = (API_ID, CONFIG, ORG_ID)
_ROUTE_NAME = "xds.route_name"
_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Service:
    """What the configuration is held against."""

    loaded: Loaded
    chains: Chains
    timeout_s: float
    max_body_bytes: int
    #: Its addresses, and whether they speak TLS.
    listen: tuple[str, ...] = ()
    has_tls: bool = False


def examine(paths: Iterable[Path], service: Service) -> tuple[list[FileFinding], int]:
    """What is wrong, by file and place, and how many filters there are.

    Raises ConfigError for a path that does not exist.
    """
    findings = [_of_problem(problem) for problem in service.loaded.problems]
    broken: list[FileFinding] = []
    documents: list[YamlDocument] = []
    files = [file for path in paths for file in _files(path)]
    for file in files:
        try:
            documents += read_yaml(file)
        except ConfigError as error:
            if "PyYAML" in str(error):
                raise
            broken.append(_broken(file, str(error)))
    findings += broken
    filters = [*filters_in(documents), *policy_filters(documents)]
    # Of a file that cannot be read, nobody knows whether it has one.
    if not filters and files and not broken:
        findings.append(_no_filter(files[0]))
    findings += _of_uses(uses_of(filters, documents), service)
    findings += check_services(filters, documents, service.listen, has_tls=service.has_tls)
    findings += check_unasked(filters, documents, partial(_authenticates, service=service))
    for document in documents:
        findings += _keys_as_headers(document)
    return sorted(set(findings), key=lambda finding: finding.order), len(filters)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())


def _of_uses(uses: list[Use], service: Service) -> Iterator[FileFinding]:
    """Of a route, only what is not true of its filter everywhere."""
    of_filter: set[FileFinding] = set()
    for use in uses:
        found = list(_check(use, service))
        if use.where == use.filter.where and use.document is use.filter.document:
            of_filter = set(found)
            yield from found
            continue
        for finding in found:
            if finding.json_path == YamlDocument.words(use.where):
                yield finding
            elif finding not in of_filter:
                line, _ = use.document.place(use.where)
                place = (
                    f"{use.document.path.name}:{line}"
                    if use.document.path != finding.file
                    else f"line {line}"
                )
                yield replace(finding, problem=f"On the route of {place}: {finding.problem}")


def _check(use: Use, service: Service) -> Iterator[FileFinding]:
    chain: Chain | None = None
    if use.filter.kind == PROC:
        yield from _formatted(use)
    try:
        route = route_of(_known_keys(use))
        chain = chain_of(service.loaded.table, route, service.chains)
        if use.filter.kind == AUTHZ:
            yield from _others(use, route, chain)
        else:
            yield from _api_unknown(use, chain)
    except BadMessage as error:
        yield _named(use, "envoy-key-unknown", str(error), "Every request of the route is refused with 500.")
    except UnknownHook as error:
        yield _named(use, "envoy-name-unknown", str(error), "Every request of the route is refused.")
    except CoprocessError as error:
        yield _named(use, "envoy-name-unknown", str(error), "Every request of the route is refused.")
    judged = Judged(use, chain, service.timeout_s, service.max_body_bytes)
    yield from check_authorizer(judged) if use.filter.kind == AUTHZ else check_processor(judged)
    yield from check_header_rules(judged)


def _authenticates(each: Filter, service: Service) -> bool:
    """By itself, where no route says more."""
    (use,) = uses_of([each], [])
    try:
        chain = chain_of(service.loaded.table, route_of(_known_keys(use)), service.chains)
    except CoprocessError:
        return True
    return Judged(use, chain, service.timeout_s, service.max_body_bytes).authenticates


def _known_keys(use: Use) -> Mapping[str, str]:
    # Envoy writes the keys of metadata in lower case, and `context_extensions` as they are.
    is_lowered = use.filter.kind == PROC
    return {
        key.lower() if is_lowered else key: as_sent(value) if is_lowered else value
        for key, value in use.said
        if is_meant(key)
    }


def _formatted(use: Use) -> Iterator[FileFinding]:
    """Metadata that is not sent as it is written."""
    for key, value in use.said:
        try:
            formats = formats_in(value)
        except ValueError:
            effect = "Envoy makes no call: each request gets 500, and passes where failure_mode_allow is set."
            yield _at_use(
                *(use, "envoy-key-formatted", Severity.ERROR, f"{key} has a % that is not written %%."),
                *(effect, "Write %% for each % of the value."),
            )
            continue
        if formats and is_meant(key):
            severity = Severity.WARNING if key.lower() in _SAID_OF_THE_API else Severity.ERROR
            yield _at_use(
                *(use, "envoy-key-formatted", severity, f"{key} has {formats[0]}, which Envoy fills in."),
                "What a client sends may stand there: it could choose the handlers, or what they are told.",
                "Write the value out; on routes that differ, in grpc_initial_metadata.",
            )


def _api_unknown(use: Use, chain: Chain) -> Iterator[FileFinding]:
    apis = apis_of_unrun(chain)
    if apis and _ROUTE_NAME not in list_of(use.settings.get("request_attributes")):
        yield _at_use(
            *(use, "envoy-api-unknown", Severity.ERROR),
            f"Handlers of CustomKeyCheck are for APIs ({', '.join(apis)}), and nothing says which this is.",
            "None of them would run: the service refuses every request.",
            f"Set request_attributes to [{_ROUTE_NAME}], and name each route as its API; or say {API_ID}.",
        )


def _others(use: Use, route: Route, chain: Chain) -> Iterator[FileFinding]:
    others = [moment.name for moment, _ in chain.before if moment is not HookType.CustomKeyCheck]
    others += ["Response"] if chain.after else []
    if route.names is not None and others:
        text = f"handlers of {', '.join(others)} are named, and ext_authz runs CustomKeyCheck only"
        yield _named(use, "envoy-authz-others", text, "Every request of the route is refused.")
    if not any(moment is HookType.CustomKeyCheck for moment, _ in chain.before):
        text = "no handler of CustomKeyCheck is there to run"
        yield _named(use, "envoy-name-unknown", text, "Every request of the route is refused.")


def _named(use: Use, rule: str, text: str, effect: str) -> FileFinding:
    sentence = text if text.startswith(PREFIX) else f"{text[:1].upper()}{text[1:]}"
    remedy = "Correct the name, or load the handler: `coprocess check` lists what is there."
    return _at_use(use, rule, Severity.ERROR, f"{sentence}.", effect, remedy)


def _at_use(use: Use, rule: str, severity: Severity, problem: str, effect: str, remedy: str) -> FileFinding:
    line, column = use.document.place(use.where)
    words = YamlDocument.words(use.where)
    return RULES.finding(severity, rule, use.document.path, words, problem, effect, remedy, line, column)


def _keys_as_headers(document: YamlDocument) -> Iterator[FileFinding]:
    for where, value in walk(document.value):
        for index, entry in enumerate(list_of(value.get("request_headers_to_add"))):
            key = dig(entry, "header", "key")
            if isinstance(key, str) and is_meant(key):
                place = (*where, "request_headers_to_add", index)
                line, column = document.place(place)
                yield RULES.finding(
                    *(Severity.ERROR, "envoy-key-as-header", document.path, YamlDocument.words(place)),
                    f"{key} is added to the request's headers.",
                    "Nobody looks at it there, as clients could send it too.",
                    "Give it in grpc_initial_metadata, or in context_extensions of ext_authz.",
                    *(line, column),
                )


def _broken(file: Path, text: str) -> FileFinding:
    match = re.match(rf"{re.escape(str(file))}:(\d+):(\d+): ", text)
    line, column = (int(match[1]), int(match[2])) if match else (0, 0)
    problem = text[match.end() :] if match else text.removeprefix(f"{file}: ")
    return RULES.finding(
        *(Severity.ERROR, "envoy-yaml-broken", file, "", f"{problem[:1].upper()}{problem[1:]}."),
        *("Envoy does not start with it.", "Mend it.", line, column),
    )


def _no_filter(file: Path) -> FileFinding:
    return RULES.finding(
        *(Severity.ERROR, "envoy-no-filter", file, ""),
        "No ext_proc or ext_authz filter is in the files.",
        "No request is shown to the service.",
        "Name the files that have them; `coprocess envoy config` prints a filter.",
    )


def _of_problem(problem: Problem) -> FileFinding:
    return not_loaded(
        RULES,
        "envoy-handler-broken",
        problem,
        "Its handlers are not loaded: routes that name them are refused.",
    )
