"""`coprocess kong serve`, `dump` and `conf`, and `python PLUGIN.py`, as processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coprocess.desk.kong.doctor import examine
from coprocess.gateways.kong import wire
from coprocess.gateways.kong.plugin import PluginOptions
from coprocess.gateways.kong.plugin_file import has_plugin, name_in
from coprocess.gateways.kong.registration import load_plugins
from coprocess.gateways.kong.stand_in import PATH
from tests import forked
from tests.kong.server import Kong
from tests.server import PATIENCE_S, until

PLUGIN = """
import sys
print("at import")
sys.stdout.flush()
import os
os.write(1, b"past Python")
import kong_pdk.pdk.kong as kong

Schema = ({"message": {"type": "string", "default": "x"}},)
version = "1.2.3"
priority = 9

class Plugin(object):
    def __init__(self, config):
        self.config = config

    def access(self, kong: kong.kong):
        kong.response.set_header("x", self.config["message"])

if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server
    start_dedicated_server("my-plugin", Plugin, version, priority, Schema)
"""
DUMP = [
    {
        "Name": "my-plugin",
        "Phases": ["access"],
        "Priority": 9,
        "Version": "1.2.3",
        "Schema": {
            "name": "my-plugin",
            "fields": [
                {"config": {"type": "record", "fields": [{"message": {"type": "string", "default": "x"}}]}}
            ],
        },
    }
]
KONG = [sys.executable, "-m", "coprocess", "kong"]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that are to end with the test."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    while open_kongs:
        open_kongs.pop().close()


open_kongs: list[Kong] = []


def connect(path: Path, process: subprocess.Popen[bytes]) -> Kong:
    until_s = time.monotonic() + PATIENCE_S
    while True:
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.connect(str(path))
        except OSError:
            connected.close()
            assert process.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.02)
        else:
            connected.settimeout(PATIENCE_S)
            open_kongs.append(Kong(connected))
            return open_kongs[-1]


def wait_for_worker(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until one takes connections: whoever has waited ten seconds for one is refused by the front."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        kong = connect(path, process)
        try:
            kong.receive()
        except wire.FrameError:
            assert time.monotonic() < until_s
        else:
            return
        finally:
            kong.close()


def runs(kong: Kong) -> None:
    instance = kong.start('{"message": "hi"}', "my-plugin")
    assert kong.run(instance) == [("kong.response.set_header", ["x", "hi"])]


def test_dump_is_json_and_nothing_else(plugin: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PATH)}
    for words in (
        [*KONG, "dump", str(plugin)],
        [*KONG, "serve", str(plugin), "--dump"],
    ):
        ran = forked.run(words, capture_output=True, cwd=tmp_path, check=True)
        assert json.loads(ran.stdout) == DUMP
        assert b"past Python" in ran.stderr
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(plugin), "-dump"],
        capture_output=True,
        env=environment,
        check=True,
    )
    assert json.loads(ran.stdout) == DUMP
    assert b"at import" in ran.stderr
    assert b"past Python" in ran.stderr


LOUD = """
import ctypes, os, sys, threading
print("before all")
import loud_sibling
import kong_pdk.pdk.kong as kong
ctypes.CDLL(None).write(1, b"by C", 4)
os.system("echo by a process")
import atexit
atexit.register(print, "at the end")
# After the JSON, as the interpreter waits for its main thread only then.
threading.Thread(target=lambda: (threading.main_thread().join(), print("by a thread"))).start()

class Loud(type):
    def __init__(cls, *words):
        print("by a class")

class Plugin(metaclass=Loud):
    def __init__(self, config):
        print("by init")

    def log(self, kong):
        pass

kept = Plugin({})

if __name__ == "__main__":
    print("in main")
    from kong_pdk.cli import start_dedicated_server
    start_dedicated_server("loud", Plugin)
"""


def test_nothing_that_a_plugin_prints_spoils_its_dump(tmp_path: Path) -> None:
    """Once, what a file printed that was run itself, and what any printed after its load, was in the JSON."""
    path = tmp_path / "loud.py"
    path.write_text(LOUD)
    (tmp_path / "loud_sibling.py").write_text("print('by a sibling', flush=True)\n")
    environment = {**os.environ, "PYTHONPATH": str(PATH)}
    for words in ([sys.executable, str(path), "--dump"], [*KONG, "dump", str(path)]):
        ran = subprocess.run(words, capture_output=True, env=environment, check=True, text=True)
        assert [each["Name"] for each in json.loads(ran.stdout)] == ["loud"]
        for who in ("a sibling", "C", "a process", "a class", "init", "a thread"):
            assert f"by {who}" in ran.stderr
        assert "before all" in ran.stderr
        assert "at the end" in ran.stderr


def test_what_starts_python_otherwise_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("print('out')")
    (tmp_path / "plugin.py").write_text("import kong_pdk\nprint('out')")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("print('its own', __name__)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(PATH), str(site)))}
    for words, out in (
        (["other.py", "--dump"], "out"),
        (["plugin.py"], "out"),
        (["-c", "print('out')", "plugin.py", "--dump"], "out"),
    ):
        ran = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            env=environment,
            text=True,
            cwd=tmp_path,
            check=True,
        )
        assert ran.stdout == f"its own sitecustomize\n{out}\n"


#: Once, these loaded, and Kong did not start with them.
SCHEMA = "Schema = ({{'a': {{{}}}}},)\nclass Plugin:\n def access(self, kong): pass"
#: Once, a header of two letters was unpacked.
UNPACKED = "class Plugin:\n async def access(self, kong):\n  v, e = await kong.request.get_header('x')"


#: Once, these ended the server before it listened.
DEEP = f"x = {'-' * 20_000}1\nclass Plugin:\n def access(self, kong): pass"
LOOKED_AT = """
class Asked(type):
    def __getattr__(cls, name):
        raise RuntimeError("not now")

class Plugin(metaclass=Asked):
    def access(self, kong): ...
"""
#: Once, Kong let a request by before its time was over.
TIMED = "timeout_s = {}\nclass Plugin:\n def access(self, kong): pass"


#: Once, it ended the server.
ENDS_WHERE_IT_IS_LOOKED_AT = LOOKED_AT.replace("RuntimeError", "SystemExit")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "there is no Plugin"),
        ("class Plugin: pass", "has no phase"),
        ("class Plugin:\n def access(self): pass", "cannot be called with kong"),
        ("class Plugin:\n def init_worker(self, kong): pass", "Kong runs this phase in itself only"),
        ("version = 1.0\nclass Plugin:\n def access(self, kong): pass", 'Expected: text as "1.0.0"'),
        (
            "import not_there\nclass Plugin:\n def access(self, kong): pass",
            f"Install it for {sys.executable}",
        ),
        ("priority = '1'\nclass Plugin:\n def access(self, kong): pass", "Expected: a whole number"),
        ("Schema = {'a': 1}\nclass Plugin:\n def access(self, kong): pass", "Expected: a list or tuple"),
        (SCHEMA.format('"typ": "string"'), "Schema.a: unknown attribute 'typ'; Schema.a: has no type"),
        (SCHEMA.format('"type": "text"'), "Schema.a: unknown type 'text'"),
        (SCHEMA.format('"type": "string", "default": 1'), "Schema.a: the default 1 is no string"),
        (SCHEMA.format('"type": "string", "one_of": "x"'), "Schema.a: one_of is 'x'. Expected: a list"),
        (
            SCHEMA.format('"type": "number", "between": [1]'),
            "Schema.a: between is [1]. Expected: two numbers",
        ),
        (SCHEMA.format('"type": "string", "required": "yes"'), "Schema.a: required is 'yes'. Expected: true"),
        (
            SCHEMA.format('"type": "boolean", "one_of": [True]'),
            "Schema.a: a field of type boolean cannot have 'one_of'. Expected: one of type integer or number",
        ),
        (UNPACKED, "p.py:3: kong.request.get_header is unpacked"),
        (SCHEMA.format('"type": "number", "default": float("nan")'), "cannot be told to Kong as JSON"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named"),
        (DEEP, "Error"),  # Which one, Python's version says.
        (LOOKED_AT, "it raised RuntimeError when it was looked at: not now"),
        (ENDS_WHERE_IT_IS_LOOKED_AT, "it raised SystemExit when it was looked at: not now"),
        ("class Plugin:\n access = 5", "p.py:1: Plugin.access cannot be called with kong"),
        (TIMED.format("100"), "timeout_s is 100. Expected: seconds, more than 0, and no more than 40"),
        (TIMED.format("float('nan')"), "timeout_s is nan. Expected: seconds"),
        (TIMED.format("float('inf')"), "timeout_s is inf. Expected: seconds"),
        ("def (", "SyntaxError"),
    ],
)
def test_what_kong_would_not_start_with_is_told(tmp_path: Path, source: str, says: str) -> None:
    path = tmp_path / "p.py"
    path.write_text(source)
    loaded, plugins = load_plugins([path], PluginOptions())
    assert not plugins
    (problem,) = loaded.problems
    assert says in str(problem)
    assert str(path) in str(problem)


def test_what_is_nested_too_deep_has_the_name_of_its_file_and_is_told_by_the_doctor(tmp_path: Path) -> None:
    """Once, the server ended for it."""
    path = tmp_path / "p.py"
    path.write_text(DEEP)
    assert name_in(path) == "p"
    assert has_plugin(path)
    assert {each.rule for each in examine(None, None, [path])} <= {"plugin-broken"}


def test_a_dump_that_fails_prints_nothing_for_kong(tmp_path: Path) -> None:
    path = tmp_path / "p.py"
    path.write_text("class Plugin: pass")
    ran = forked.run([*KONG, "dump", str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "has no phase" in ran.stderr


def test_a_dump_ends_beside_a_thread_that_does_not(tmp_path: Path) -> None:
    path = tmp_path / "p.py"
    path.write_text(f"import threading\nthreading.Thread(target=threading.Event().wait).start()\n{GOOD}")
    ran = subprocess.run([*KONG, "dump", str(path)], capture_output=True, timeout=60, check=True)
    assert json.loads(ran.stdout)[0]["Name"] == "p"
    path.write_text("import threading\nthreading.Thread(target=threading.Event().wait).start()")
    ran = subprocess.run([*KONG, "dump", str(path)], capture_output=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert ran.stdout == b""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["conf", "p.py", "--flags", "'"], '--flags "\'": No closing quotation. Expected: words as in a'),
        (["conf", "p.py", "--name", "a b"], "the plugin's name is 'a b', which kong.conf cannot have"),
        (["serve", "--handlers", ".", "--on-error", "open"], "--on-error goes with plugins"),
        (["serve", "p.py", "--on-error", "maybe"], "--on-error 'maybe'. Expected: open or closed"),
        (["serve", "p.py", "-p", ".", "--timeout-s", "60"], "timeout_s is 60. Expected: 40 at most"),
        (["serve", "p.py", "-p", ".", "--timeout-s", "nan"], "--timeout-s"),
    ],
)
def test_what_a_command_cannot_do_is_told(tmp_path: Path, words: list[str], says: str) -> None:
    """Once, some were left out of account, and some ended with a fault of ours."""
    (tmp_path / "p.py").write_text(GOOD)
    ran = forked.run([*KONG, *words], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert ran.returncode == 1
    assert says in ran.stderr
    assert "fault of coprocess" not in ran.stderr


def test_a_folder_of_plugins_may_hold_what_they_import(tmp_path: Path) -> None:
    """Once, a folder with a module beside its plugins was refused, which kong-pdk serves."""
    (tmp_path / "helper.py").write_text("def who():\n    return 'you'\n")
    (tmp_path / "one.py").write_text("import helper\nclass Plugin:\n def access(self, kong): helper.who()\n")
    (tmp_path / "two.py").write_text(PLUGIN.replace("class Plugin", "class Two").replace(" Plugin,", " Two,"))
    ran = forked.run([*KONG, "dump", "-d", str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [each["Name"] for each in json.loads(ran.stdout)] == ["one", "my-plugin"]


GOOD = "class Plugin:\n def __init__(self, config): pass\n def access(self, kong): pass\n"
FOLDER = {
    "helper.py": "x = 1\n",
    "_private.py": GOOD,
    "broken.py": "import nowhere_to_be_found\n" + GOOD,
    "good-copy.py": "from good import Plugin as One\nfrom kong_pdk.cli import start_dedicated_server\n"
    "def main():\n start_dedicated_server('good', One)\n",
    "good.py": GOOD,
}
LEFT_OUT = {
    "helper.py": "it has no Plugin",
    "_private.py": "its name begins with _",
    "broken.py": "ModuleNotFoundError",
    "good-copy.py": 'a second plugin "good"; the first, which counts, is ',
}


def test_what_is_left_out_of_a_folder_is_told_once_with_the_reason(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    for name, source in FOLDER.items():
        (folder / name).write_text(source)
    ran = forked.run([*KONG, "dump", "-d", str(folder)], capture_output=True, text=True, check=True)
    assert [each["Name"] for each in json.loads(ran.stdout)] == ["good"]
    log = tmp_path / "log"
    words = [*KONG, "serve", "-d", str(folder), "-p", str(tmp_path), "--log-format=json"]
    with log.open("wb") as out:
        started.append(forked.Process(words, stdout=subprocess.DEVNULL, stderr=out))
    kong = connect(tmp_path / "python_pluginserver.sock", started[0])
    assert kong.run(kong.start("{}", "good")) == []
    started[0].send_signal(signal.SIGTERM)
    assert started[0].wait(PATIENCE_S) == 0
    for name, reason in LEFT_OUT.items():
        for told in (ran.stderr.splitlines(), log.read_text().splitlines()):
            (line,) = (line for line in told if f"/{name}:" in line and reason in line.replace('\\"', '"'))
            assert "left out" in line or "not loaded" in line


def test_conf_says_what_start_cmd_needs(plugin: Path) -> None:
    words = [*KONG, "conf", str(plugin), "-p", "/kong", "--env", "TOKEN_FILE"]
    environment = {**os.environ, "TOKEN_FILE": "/a b"}
    ran = forked.run(words, capture_output=True, text=True, env=environment, check=True)
    lines = dict(line.split(" = ", 1) for line in ran.stdout.splitlines() if " = " in line)
    assert lines["pluginserver_names"] == "my-plugin"
    assert lines["pluginserver_my_plugin_socket"] == "/kong/my-plugin.socket"
    assert lines["pluginserver_my_plugin_start_cmd"].startswith("/usr/bin/env ")
    assert "'TOKEN_FILE=/a b'" in lines["pluginserver_my_plugin_start_cmd"]
    # As Kong runs it, in an empty environment.
    asked = subprocess.run(
        ["/bin/sh", "-c", lines["pluginserver_my_plugin_query_cmd"]], capture_output=True, env={}, check=True
    )
    assert json.loads(asked.stdout) == DUMP


NATIVE = """
from coprocess import CustomKeyCheck, Pre
from coprocess.store import store

@Pre
def count(request):
    request.headers["X-Count"] = str(store.increment("n"))

@CustomKeyCheck
def check(session):
    session.allow("me", quota_max=1)
"""


def test_conf_of_native_handlers_is_what_serves_them_with_a_store(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    handlers = tmp_path / "handlers"
    handlers.mkdir()
    (handlers / "h.py").write_text(NATIVE)
    prefix = tmp_path / "kong"
    prefix.mkdir()
    words = [*KONG, "conf", "--handlers", str(handlers), "--name", "mine", "-p", str(prefix)]
    ran = forked.run(words, capture_output=True, text=True, check=True)
    lines = dict(line.split(" = ", 1) for line in ran.stdout.splitlines() if " = " in line)
    asked = subprocess.run(
        ["/bin/sh", "-c", lines["pluginserver_mine_query_cmd"]], capture_output=True, env={}, check=True
    )
    assert json.loads(asked.stdout)[0]["Name"] == "mine"
    served = ["/bin/sh", "-c", f"exec {lines['pluginserver_mine_start_cmd']}"]
    for exits in (False, True):  # What was counted is known after a restart.
        started.append(
            subprocess.Popen(served, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={}, cwd="/")
        )
        kong = connect(prefix / "mine.socket", started[-1])
        calls = dict(
            kong.run(kong.start("{}", "mine"), get_method="GET", get_path_with_query="/", get_headers={})
        )
        if exits:
            assert calls["kong.response.exit"][0] == 403
        else:
            assert calls["kong.service.request.set_headers"] == [{"X-Count": "1"}]
        # Where Kong starts it may be nobody's to write to.
        assert (prefix / ".coprocess" / "valkey").is_dir()
        started[-1].send_signal(signal.SIGTERM)
        assert started[-1].wait(PATIENCE_S) == 0


def test_serve_from_start_to_stop(
    plugin: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    prefix = tmp_path / "kong"
    prefix.mkdir()
    words = [*KONG, "serve", str(plugin), "-kong-prefix", str(prefix), "-v", "-g"]
    # As many systems have it, for fewer connections than Kong has.
    words = ["/bin/sh", "-c", 'ulimit -S -n 64 && exec "$0" "$@"', *words]

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={}))
        return started[-1]

    old = start()
    one, other = prefix / "my-plugin.socket", prefix / "my-plugin.sock"
    kong = connect(one, old)
    runs(kong)
    runs(connect(other, old))
    for _ in range(100):
        runs(connect(one, old))
    assert (one.stat().st_mode & 0o777) == 0o600
    # A reload of Kong: the new server starts while the old one serves.
    before = one.stat().st_ino
    new = start()
    until_s = time.monotonic() + PATIENCE_S
    while one.stat().st_ino == before:
        assert time.monotonic() < until_s
        connect(one, old).close()  # At no time is there none.
    runs(kong)
    again = connect(one, new)
    assert wire.message_of(again.receive()) == wire.Notification(wire.SERVER_PID, new.pid)
    runs(again)
    old.send_signal(signal.SIGTERM)
    assert old.wait(PATIENCE_S) == 0
    # It has removed no socket but its own.
    assert one.exists()
    assert other.exists()
    runs(again)
    new.send_signal(signal.SIGTERM)
    assert new.wait(PATIENCE_S) == 0
    assert not one.exists()


@pytest.mark.parametrize("name", ["NAME", "str(NAME)"])
def test_the_socket_is_called_as_the_plugin_that_kong_is_told_of(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], name: str
) -> None:
    """Once, the socket was called as the file where the call has no text: Kong found none, and let all by."""
    path = tmp_path / "file.py"
    path.write_text(
        "from kong_pdk.cli import start_dedicated_server\nNAME = 'theirs'\n"
        f"{GOOD}start_dedicated_server({name}, Plugin)\n"
    )
    words = [*KONG, "serve", str(path), "-p", str(tmp_path)]
    started.append(forked.Process(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    kong = connect(tmp_path / "theirs.socket", started[0])
    assert kong.run(kong.start("{}", "theirs")) == []
    started[0].send_signal(signal.SIGTERM)
    assert started[0].wait(PATIENCE_S) == 0


def test_a_plugin_file_that_starts_itself(
    plugin: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    started.append(
        subprocess.Popen(
            [sys.executable, str(plugin), "-p", str(tmp_path), "--socket-name", "x.socket", "--no-lua-style"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PYTHONPATH": str(PATH)},
        )
    )
    kong = connect(tmp_path / "x.socket", started[0])
    runs(kong)


def test_a_server_ends_when_its_kong_was_killed(
    plugin: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    words = [*KONG, "serve", str(plugin), "-p", str(tmp_path)]
    code = (
        f"import subprocess, time; p = subprocess.Popen({words!r}); print(p.pid, flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    started.append(worker)
    assert worker.stdout is not None
    pid = int(worker.stdout.readline())
    kong = connect(tmp_path / "my-plugin.socket", worker)
    runs(kong)
    worker.kill()
    worker.wait()
    kong.socket.settimeout(PATIENCE_S)
    with pytest.raises(EOFError):
        kong.receive()

    def has_ended() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state == "Z"  # Where nobody takes its status.

    until(has_ended)


def test_a_reload_loses_no_event_and_metrics_tell_of_phases(
    plugin: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    admin = tmp_path / "admin"
    words = [*KONG, "serve", str(plugin), "-p", str(tmp_path), "--admin", f"unix:{admin}"]
    started.append(forked.Process(words, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT))
    kong = connect(tmp_path / "my-plugin.socket", started[0])
    instance = kong.start('{"message": "hi"}', "my-plugin")
    plugin.write_text(PLUGIN.replace('set_header("x"', 'set_header("new"'))
    started[0].send_signal(signal.SIGHUP)
    names, until_s = {"x"}, time.monotonic() + PATIENCE_S
    while "new" not in names and time.monotonic() < until_s:
        # With the instance that it has, before and after.
        ((_, (name, value)),) = kong.run(instance)
        assert value == "hi"
        names.add(name)
    assert names == {"x", "new"}
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(admin))
        asked.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        page = b"".join(iter(lambda: asked.recv(65536), b"")).decode()
    assert 'hook="my-plugin",hook_type="access"' in page


def test_a_plugin_that_cannot_be_loaded_refuses_requests(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    path = tmp_path / "p.py"
    path.write_text("raise RuntimeError('at import')")
    started.append(
        forked.Process(
            [*KONG, "serve", str(path), "-p", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    )
    kong = connect(tmp_path / "p.socket", started[0])
    kong.send("plugin.StartInstance", {"Name": "p", "Config": "{}"})
    assert isinstance(kong.answer().error, str)


LEAKING = """
import os

opened = []

class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        try:
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass

    def rewrite(self, kong):
        while opened:
            os.close(opened.pop())
"""


def test_what_connects_while_no_more_files_may_be_open_is_refused(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """Once, it waited: after 60 s, Kong let its request by."""
    (tmp_path / "p.py").write_text(LEAKING)
    words = ["sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *KONG, "serve", str(tmp_path / "p.py")]
    server = subprocess.Popen(
        [*words, "-p", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    started.append(server)
    kong = connect(tmp_path / "p.socket", server)
    kong.send(wire.START_INSTANCE, {"Name": "p", "Config": "{}"})
    instance = kong.answer().result["Id"]
    assert kong.run(instance) == []
    for _ in range(3):
        refused = connect(tmp_path / "p.socket", server)
        refused.send(wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": "access"})
        with pytest.raises(wire.FrameError):  # It is no answer, for which Kong refuses the request.
            refused.receive()
    # What is open goes on, and all is well once there is room.
    assert kong.run(instance, "rewrite") == []
    served = connect(tmp_path / "p.socket", server)
    served.send(wire.HANDLE_EVENT, {"InstanceId": instance, "EventName": "rewrite"})
    assert served.answer().result["Data"] == "ret"


@pytest.mark.parametrize("words", [("dump", "{}"), ("conf", "{}"), ("try", "{}", "GET", "/")])
def test_a_plugin_that_raises_what_ctrl_c_does_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Once, the command ended with 130, and without a word."""
    path = tmp_path / "p.py"
    path.write_text("raise KeyboardInterrupt\n")
    command = [*KONG, *(word.format(path) for word in words)]
    ran = forked.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert f"coprocess: {path}:1: KeyboardInterrupt" in ran.stderr
