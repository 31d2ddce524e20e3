"""What query commands tell, and what Kong makes of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

from coprocess.bounded import repr_of
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.kong.doctor.conf import PluginServer
from coprocess.desk.kong.doctor.findings import NO_START, finding
from coprocess.desk.kong.simulator.dump import PHASES, PluginInfo, read_dump
from coprocess.errors import ConfigError

_QUERY_LIMIT_S = 20.0
#: What `sh` ends with where it cannot run a command, or does not find it.
_NOT_RUN = (126, 127)


def queried(server: PluginServer) -> Iterator[FileFinding | PluginInfo]:
    """What the query command tells, run as Kong runs it."""
    path, line = server.conf.path, server.line("query_cmd")
    try:
        run = subprocess.run(  # noqa: S603 - the user's own command, which Kong runs, too
            ["/bin/sh", "-c", server.query_cmd],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_QUERY_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        yield finding(
            "dump-broken",
            path,
            line,
            f"query_cmd has not ended after {_QUERY_LIMIT_S:g} s.",
            "Kong waits for it at start.",
            "See what the plugin does when it is imported.",
        )
        return
    text = run.stdout.decode("utf-8", "replace")
    try:
        info = read_dump(text)
    except ConfigError as error:
        rule = "dump-refused" if _is_json(text) else "dump-broken"
        said = run.stderr.decode("utf-8", "replace").strip().splitlines()
        more = f" It said: {repr_of(said[-1], 200)}" if said and rule == "dump-broken" else ""
        remedy = (
            "Mend what the plugin says of itself."
            if rule == "dump-refused"
            else _remedy(run.returncode, text, said)
        )
        yield finding(rule, path, line, f"{server.name}: {error}.{more}", NO_START, remedy)
        return
    yield info


def _remedy(status: int, text: str, said: list[str]) -> str:
    """Of what is no JSON."""
    last = said[-1] if said else ""
    if "ModuleNotFoundError" in last:
        return "Install it for the Python that query_cmd runs, or name another: /path/to/venv/bin/python …"
    if status in _NOT_RUN or "not found" in last:
        return "Write the absolute path of a program that is there; `coprocess kong conf PLUGIN.py` does."
    if status and not text.strip():
        return "Run query_cmd yourself, and mend what it tells of."
    return "Print nothing on standard output at import; `coprocess kong dump` keeps it clean."


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def phase_findings(server: PluginServer, info: PluginInfo) -> Iterator[FileFinding]:
    """Phases that Kong never runs, or dies of."""
    path, line = server.conf.path, server.line("query_cmd")
    if info.breaks_requests:
        yield finding(
            "phase-fatal",
            path,
            line,
            f"{info.name!r} has phases that run in Kong only: {', '.join(info.phases)}.",
            "Kong answers no request at all.",
            f"Have phases of: {', '.join(PHASES)}.",
        )
    if not any(phase in PHASES for phase in info.phases):
        yield finding(
            "phase-never-runs",
            path,
            line,
            f"{info.name!r} has no phase that Kong knows.",
            "Kong never runs it, and says nothing.",
            f"Have phases of: {', '.join(PHASES)}.",
            Severity.WARNING,
        )
    if not info.protocol.startswith("MsgPack"):
        yield finding(
            "dump-refused",
            path,
            line,
            f"{info.name!r} asks for the protocol {info.protocol!r}.",
            "Each request gets 500.",
            "Use MsgPack:1.",
        )
