"""The deployment files name settings, commands, ports, pages and metrics that exist.

YAML is looked at as text: no parser of it is among the dependencies.
"""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import Metric

from coprocess.cli.app import app
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.wire import SERVICE
from coprocess.loading.hooks import HookTable
from coprocess.loading.loaded import Loaded
from coprocess.process.admin import AdminPages
from coprocess.process.config import PREFIX, Settings
from coprocess.process.metrics import ServiceCollector, StoreCounts, make_registry
from coprocess.process.reload import Reloader
from coprocess.process.settings_loading import load_settings
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engines import make_engine
from coprocess.transport.health import Health
from tests.fresh_install import command_names
from tests.images import assert_listens_where_it_says_and_reaps
from tests.server import engine_options

DEPLOY = Path(__file__).parent.parent / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
YAML = [path for path in FILES if path.suffix == ".yaml"]

_NAME = re.compile(
    r"\bcoprocess_(?:calls?|hooks|serving|roll\w+|route|threads|store|reloads|last|load|loop|build)\w*"
)


def collector() -> ServiceCollector:
    service = Service(Dispatcher(HookTable()), ServiceOptions())
    reloader = Reloader(lambda: Loaded(HookTable()), service, strict=False)
    engine, _ = make_engine("http2", engine_options())
    store = StoreCounts()
    store.observe("get", 0.1, True)
    return ServiceCollector(service, engine, Health(()), reloader, store)


def metric_names() -> set[str]:
    """Names of series, as one writes them in a query."""
    names: set[str] = set()
    for family in collector().collect():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        names.update(f"{family.name}{ending}" for ending in endings)
    return names


def _labels_of(family: Metric) -> tuple[str, ...]:
    return getattr(family, "_labelnames", ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_exist_and_their_values_are_good(path: Path) -> None:
    text = path.read_text()
    named = {name.lower() for name in re.findall(rf"\b{PREFIX}([A-Z_]+)\b", text)}
    assert named <= set(Settings.model_fields), "no such setting"
    values = re.findall(rf'\b{PREFIX}([A-Z_]+)(?:, value)?[:=] ?"?([^\s"}}]+)', text)
    load_settings({name.lower(): value for name, value in values})


@pytest.mark.parametrize(
    "path", [DEPLOY / "alerts.yaml", DEPLOY / "grafana-dashboard.json"], ids=lambda p: p.name
)
def test_metrics_exist(path: Path) -> None:
    used = set(_NAME.findall(path.read_text()))
    assert len(used) > 5
    assert used <= metric_names()


@pytest.mark.parametrize(
    "path", [DEPLOY / "alerts.yaml", DEPLOY / "grafana-dashboard.json"], ids=lambda p: p.name
)
def test_labels_are_those_of_the_metrics(path: Path) -> None:
    # `instance` is Prometheus' own, `le` that of histograms.
    known = {"instance", "le", *(label for family in collector().collect() for label in _labels_of(family))}
    text = path.read_text()
    used = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", text) for label in group.split(",")}
    used |= set(re.findall(r'[{,]\s*(\w+)(?:=~|!~|!=|=)\\?"', text))
    used |= set(re.findall(r"\$labels\.(\w+)", text))
    assert len(used) > 3
    assert used <= known


def test_what_tells_of_trouble_has_an_alert() -> None:
    """A file that is broken at the start, and a hook that nobody knows, are no failure of any hook."""
    words = "fail|refused|problems|blocked_seconds|abandoned|back$"
    trouble = {name for name in metric_names() if re.search(words, name)}
    assert trouble <= set(_NAME.findall((DEPLOY / "alerts.yaml").read_text()))


def test_reasons_in_alerts_are_those_that_are_counted() -> None:
    used = set(re.findall(r'reason=~?"([^"]+)"', (DEPLOY / "alerts.yaml").read_text()))
    assert {reason for each in used for reason in each.split("|")} == {"failed", "timed_out", "shed"}


def test_the_dashboard() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


def test_the_unit() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep case
    unit.read(DEPLOY / "coprocess.service")
    service = unit["Service"]
    assert service["ExecStart"].split()[1:] == ["serve"]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    default = Settings()
    assert int(service["TimeoutStopSec"]) > default.drain_s + default.shutdown_timeout_s


def test_the_image() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    (command,) = re.findall(r'^CMD \["(\w+)"\]', text, re.MULTILINE)
    assert command in command_names(typer.main.get_command(app))
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    default = Settings()
    assert_listens_where_it_says_and_reaps(text)
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (DEPLOY.parent / name).exists(), name
    assert f"http://{default.admin}/readyz" in text


def test_probes_ask_for_what_is_answered() -> None:
    text = (DEPLOY / "kubernetes" / "deployment.yaml").read_text()
    assert re.findall(r"service: ([\w.]+)", text) == [SERVICE]
    collected = collector()
    not_called: Any = None
    pages = AdminPages(
        Health(()), collected._reloader, make_registry(collected), not_called, roll_back=not_called
    )
    paths = set(re.findall(r"path: (/\w+z)\b", text)) | {"/readyz", "/metrics"}
    statuses: list[str] = []
    for path in paths:
        environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET"}
        list(pages(environ, lambda status, *rest: statuses.append(status)))  # type: ignore[arg-type]  # no write()
    assert len(statuses) == len(paths)
    assert {status[:3] for status in statuses} <= {"200", "503"}


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_has_no_tabs_and_whole_steps(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert "\t" not in line
        assert (len(line) - len(line.lstrip(" "))) % 2 == 0
