"""What the doctor finds at Kong, and the catalogue of all it can find."""

from __future__ import annotations

from pathlib import Path

from coprocess.desk.findings import Catalogue, FileFinding, Severity

NO_START = "Kong does not start."

#: Every rule: id → what it looks for. docs/kong-desk.md tells them too, and a test holds it to this list.
_LOOKED_FOR = {
    "conf-unreadable": "kong.conf cannot be read, or has a line that is no setting",
    "conf-unknown-setting": "A pluginserver setting is of no server that pluginserver_names lists",
    "conf-no-query-cmd": "A plugin server has no query command",
    "conf-no-start-cmd": "A plugin server has no start command",
    "conf-command": "A command does not run as Kong runs it",
    "conf-environment": "A start command relies on an environment that it does not get",
    "conf-not-enabled": "plugins= lacks the plugin, or names one that no server tells of",
    "conf-socket": "Kong connects to another socket than the server listens on",
    "conf-flags": "A start command has flags that the plugin does not go with",
    "dump-broken": "The query command prints something else than one JSON value",
    "dump-refused": "Kong does not start with what the query command tells",
    "plugin-broken": "A plugin's file cannot be read as Python",
    "phase-never-runs": "A phase that Kong never runs where the plugin is put",
    "method-unknown": "A plugin calls what Kong's PDK does not have",
    "phase-fatal": "A phase with which Kong answers no request",
    "style-mixed": "A plugin takes the results of PDK calls in both styles",
    "style-wrong": "A plugin takes the results of PDK calls in the style that its server does not have",
    "config-refused": "Kong refuses the declarative configuration",
    "config-unused": "A plugin is in no declarative configuration",
}
RULES = Catalogue(_LOOKED_FOR)


def finding(
    rule: str,
    path: Path,
    line: int,
    problem: str,
    effect: str,
    remedy: str,
    severity: Severity = Severity.ERROR,
) -> FileFinding:
    """A finding about a line of a file; line 0: about the file."""
    return RULES.finding(severity, rule, path, "", problem, effect, remedy, line)
