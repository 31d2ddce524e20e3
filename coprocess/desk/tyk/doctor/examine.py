"""All rules, in one pass."""

from __future__ import annotations

from coprocess.desk.findings import FileFinding
from coprocess.desk.not_loaded import not_loaded
from coprocess.desk.tyk.doctor.code import check_code
from coprocess.desk.tyk.doctor.conf import check_conf
from coprocess.desk.tyk.doctor.definitions import check_definition, check_duplicates
from coprocess.desk.tyk.doctor.events import check_events
from coprocess.desk.tyk.doctor.manifests import check_bundle
from coprocess.desk.tyk.doctor.names import check_hooks, check_unused, spec_of
from coprocess.desk.tyk.doctor.project import Project
from coprocess.desk.tyk.doctor.rules import RULES
from coprocess.desk.tyk.doctor.webhooks import check_api_webhooks, check_conf_webhooks
from coprocess.errors import ConfigError
from coprocess.loading.loaded import Problem


def examine(project: Project) -> list[FileFinding]:
    """Everything that is wrong, by file and place."""
    findings = [*project.findings, *map(_of_problem, project.loaded.problems)]
    findings += _conf_findings(project)
    for api in project.apis:
        findings += check_definition(project, api)
        findings += check_events(project, api)
        findings += check_api_webhooks(project, api)
        if not api.bundle and _is_for_this_service(project, api.driver):
            findings += check_hooks(project, api.definition.hooks, api.document, spec_of(api))
    findings += check_duplicates(project.apis)
    for bundle in project.bundles:
        findings += check_bundle(project, bundle)
    findings += check_unused(project)
    findings += check_code(project)
    return sorted(set(findings), key=lambda finding: finding.order)


def _is_for_this_service(project: Project, driver: str) -> bool:
    # Of another driver, the driver is the problem; what its hooks are called is its own affair.
    return driver in ("grpc", "python", "")


def _conf_findings(project: Project) -> list[FileFinding]:
    found: list[FileFinding] = []
    try:
        found.extend(check_conf(project))
        found.extend(check_conf_webhooks(project))
    except ConfigError as error:
        if project.conf is None:
            raise
        found.append(project.conf.malformed(error, "The gateway does not start with this file."))
    return found


def _of_problem(problem: Problem) -> FileFinding:
    return not_loaded(
        RULES, "handler-broken", problem, "Its handlers are not loaded: hooks that name them fail."
    )
