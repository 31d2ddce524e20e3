"""Handler code that changes the process: what is the service's is put back, and it is told."""

from __future__ import annotations

import faulthandler
import gc
import logging
import logging.config
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from coprocess.loading import process_state
from coprocess.loading.log_state import LogState
from tests.conftest import Load
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import fails, until

CHANGES: dict[str, tuple[str, Callable[[], Any]]] = {
    "the working folder": ("import os; os.chdir('/')", os.getcwd),
    "signal handlers": (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
        lambda: (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGPIPE)),
    ),
    "which signals are blocked": (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})",
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    ),
    "the alarm timer": (
        "import signal; signal.alarm(1000)",
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
    ),
    "the alarm timer (signal.alarm, signal.setitimer)": (
        "import signal; signal.setitimer(signal.ITIMER_PROF, 1000); "
        "signal.setitimer(signal.ITIMER_VIRTUAL, 1000)",
        lambda: (signal.getitimer(signal.ITIMER_PROF)[0], signal.getitimer(signal.ITIMER_VIRTUAL)[0]),
    ),
    "signals by faulthandler.register": (
        # On Python's own descriptor for errors: pytest has another.
        "import faulthandler, signal, sys; faulthandler.register(signal.SIGTERM, sys.__stderr__)",
        lambda: faulthandler.unregister(signal.SIGTERM),
    ),
    "standard input, output or error (os.close)": (
        "import os; os.close(0)",
        lambda: os.fstat(0).st_mode > 0,
    ),
    "the limit of recursion": ("import sys; sys.setrecursionlimit(300)", sys.getrecursionlimit),
    "builtins": ("import builtins; builtins.open = None", lambda: open),
    "what makes log records": (
        "import logging; logging.setLogRecordFactory(lambda *a, **k: 1 / 0)",
        logging.getLogRecordFactory,
    ),
    "sys.stdout": ("import io, sys; sys.stdout = io.StringIO()", lambda: sys.stdout),
    "sys.stderr": ("import io, sys; sys.stderr = io.StringIO()", lambda: sys.stderr),
    "the switch interval": ("import sys; sys.setswitchinterval(1)", sys.getswitchinterval),
    "the stack size": ("import threading; threading.stack_size(65536)", threading.stack_size),
    "whether garbage is collected": ("import gc; gc.disable()", gc.isenabled),
    "whether garbage is collected (gc.disable)": ("import gc; gc.set_threshold(0)", gc.get_threshold),
    "the umask": ("import os; os.umask(0o777)", process_state._umask),
    "resource limits": (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (200, r.getrlimit(r.RLIMIT_NOFILE)[1]))",
        lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
    ),
    "which warnings are exceptions": (
        "import warnings; warnings.simplefilter('error', BytesWarning); "
        "warnings.filterwarnings('ignore', 'x')",
        lambda: [each for each in warnings.filters if each[0] == "error"],
    ),
    "variables COPROCESS_*": (
        "import os; os.environ['COPROCESS_LISTEN'] = 'x'",
        lambda: os.environ.get("COPROCESS_LISTEN"),
    ),
    "the level of the root logger": (
        "import logging; logging.getLogger().setLevel(logging.CRITICAL + 1)",
        lambda: logging.getLogger().level,
    ),
    "the handlers of the root logger": (
        "import logging; logging.basicConfig(force=True)",
        lambda: list(logging.getLogger().handlers),
    ),
    "logging.disable": (
        "import logging; logging.disable(logging.CRITICAL)",
        lambda: logging.root.manager.disable,
    ),
    "loggers of the service": (
        "import logging.config as c; c.dictConfig({'version': 1})",
        lambda: [logging.getLogger(name).disabled for name in ("coprocess", "another.folders")],
    ),
    "the configuration of structlog": (
        "import structlog; structlog.configure(processors=[])",
        lambda: structlog.get_config()["processors"],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_handler_code_changes_at_load_is_put_back_and_told(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    code, read = CHANGES[what]
    logging.getLogger("another.folders")
    # pytest's own would be closed, and its timer runs.
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        before = read()
        loaded = load(write(tmp_path / "handlers", a=f"{code}\n{stamping('one')}"))
        assert read() == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
    assert [hook.name for hook in loaded.table] == ["stamp"]
    assert loaded.problems == []
    (note,) = loaded.notes
    assert note.startswith(f"{tmp_path}/handlers/a.py: changes {what}")
    assert note.endswith("which is the service's: put back")


def test_it_is_put_back_where_the_module_fails(load: Load, tmp_path: Path) -> None:
    before = os.getcwd()
    loaded = load(write(tmp_path / "handlers", a="import os\nos.chdir('/')\n1/0\n"))
    assert os.getcwd() == before
    assert len(loaded.problems) == len(loaded.notes) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import logging; logging.basicConfig(level='DEBUG')",
        "import logging; logging.getLogger('mine').setLevel(10)",
        "import logging; logging.getLogger().addHandler(logging.NullHandler())",
        "import warnings; warnings.filterwarnings('ignore', 'x')",
        "import os; os.environ['MINE'] = 'x'",
        "import sys; sys.setrecursionlimit(sys.getrecursionlimit())",
    ],
)
def test_what_is_harmless_is_left_alone(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setenv("MINE", "before")
    handlers = list(logging.getLogger().handlers)
    try:
        assert load(write(tmp_path / "handlers", a=code)).notes == []
    finally:
        logging.getLogger().handlers[:] = handlers


def test_a_formatter_that_replaces_ours_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ours goes the redaction."""
    handler = logging.StreamHandler()
    ours = logging.Formatter("ours %(message)s")
    handler.setFormatter(ours)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    state = LogState()
    handler.setFormatter(logging.Formatter("theirs %(message)s"))
    handler.addFilter(lambda record: False)
    assert state.mend() == ["the handlers of the root logger"]
    assert handler.formatter is ours
    assert handler.filters == []
    assert state.mend() == []


HOSTILE = """
import logging.config, os, signal
os.chdir("/")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
logging.config.dictConfig({"version": 1, "handlers": {"c": {"class": "logging.StreamHandler"}},
                           "root": {"level": "CRITICAL", "handlers": ["c"]}})
logging.basicConfig(force=True)
from coprocess import Pre

@Pre
def fail(request):
    raise RuntimeError("Authorization: Bearer geheim")

@Pre
def later(request):
    logging.disable(logging.CRITICAL)
    logging.basicConfig(force=True)
    os.chdir("/")
"""


def test_a_service_with_such_handlers_logs_redacts_reloads_and_stops(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", a=HOSTILE)
    (tmp_path / "coprocess.toml").write_text("")
    service = ServeProcess(handlers, "--config=coprocess.toml")
    service._flags[0] = "--handlers=handlers"  # Relative, so that chdir would break it.
    with service, service.client() as client:
        fails(lambda: client.dispatch(make_object(hook_name="fail")))
        until(lambda: "RuntimeError" in service.text)
        client.dispatch(make_object(hook_name="later"))
        for what in ("the handlers of the root logger", "logging.disable"):
            note = f"changes {what}, which is the service's: put back"
            until(lambda: any(line.get("note") == note for line in service.lines))  # noqa: B023 - called within
        write(handlers, a=stamping("two"), b=HOSTILE)
        service.process.send_signal(signal.SIGHUP)
        assert service.wait_for("reloaded")["hooks"] == 3
        failures = service.text.count("RuntimeError")
        fails(lambda: client.dispatch(make_object(hook_name="fail")))
        until(lambda: service.text.count("RuntimeError") > failures)
        assert service.end() == 0
    assert "geheim" not in service.text


FAKE_GEVENT = """
import threading, time
def patch_all(**options):
    threading.Thread.start = time.sleep = None
"""


def test_monkey_patches_of_the_process_are_not_done_also_within_libraries(tmp_path: Path) -> None:
    library = tmp_path / "library"
    (library / "gevent").mkdir(parents=True)
    write(library / "gevent", __init__="", monkey=FAKE_GEVENT)
    write(library, grequests="from gevent import monkey\nmonkey.patch_all(thread=False)\n")
    handlers = write(tmp_path / "handlers", a=f"import grequests\n{stamping('one')}")
    done = subprocess.run(
        [sys.executable, "-m", "coprocess", "check", f"--handlers={handlers}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(library)},
    )
    assert done.returncode == 0, done.stderr
    assert f"warning: {handlers}/a.py: calls gevent.monkey.patch_all(), which would hang" in done.stderr
    assert threading.Thread.start is not None
