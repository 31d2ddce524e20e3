"""Whatever a command is given, it ends with a sentence: never with a traceback, and never not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from coprocess.cli.app import main
from coprocess.desk.tyk import importer
from tests import fork_server, forked
from tests.cli.commands import GOOD, Command
from tests.loading import write
from tests.objects import RECORDINGS
from tests.server import PATIENCE_S

RunHere = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def exit_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, a command's end would be that of the tests."""
    monkeypatch.setattr("coprocess.cli.app.bound_exit", lambda status: None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunHere:
    """A command in this process, in `tmp_path`: status, output, errors."""
    monkeypatch.chdir(tmp_path)
    forked.instead(importer, monkeypatch)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["coprocess", *map(str, arguments)])
        status: object = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        assert isinstance(status, int)
        captured = capsys.readouterr()
        for text in captured:
            assert "Traceback" not in text, text
            assert "fault of coprocess" not in text, text
        return status, captured.out, captured.err

    return run


BROKEN = {
    "a list": b"[]",
    "a number": b"5",
    "text": b'"x"',
    "null": b"null",
    "empty": b"",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 300 + b"1" + b"}" * 300,
    "a huge number": b'{"api_id": ' + b"1" * 5000 + b"}",
    "no number": b'{"api_id": NaN}',
    "half a character": b'{"api_id": "\\ud800", "name": "\\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"api_id": "x"}',
    "no UTF-8": b'{"api_id": "\xff"}',
}
LINES = {
    "doctor --apis": ("doctor", "--apis", "x.json"),
    "doctor --conf": ("doctor", "--conf", "x.json"),
    "try --api": ("try", "GET", "/", "--api", "x.json"),
    "call --recording": ("call", "Pre", "works", "--recording", "x.json"),
    "replay": ("replay", "x.json", "--apis", "."),
    "bundle verify": ("bundle", "verify", "bundle"),
    "doctor --bundles": ("doctor", "--bundles", "bundle"),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_json_that_is_none(line: tuple[str, ...], here: RunHere, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD, "bundle/a.py": GOOD})
    for name, content in BROKEN.items():
        (tmp_path / "x.json").write_bytes(content)
        (tmp_path / "bundle" / "manifest.json").write_bytes(content)

        status, output, errors = here(*line)

        assert status == 1, (name, output)
        assert output + errors


@pytest.mark.parametrize("line", [LINES["doctor --apis"], LINES["try --api"], LINES["call --recording"]])
def test_a_file_that_never_ends(line: tuple[str, ...], here: RunHere, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD})
    os.mkfifo(tmp_path / "x.json")

    status, output, errors = here(*line)

    assert status == 1
    assert "no regular file" in output + errors


@pytest.mark.parametrize(
    "definition",
    [
        {"api_id": 5},
        {"api_id": "x", "proxy": []},
        {"api_id": "x", "proxy": {"listen_path": "/", "target_url": "http://[x"}},
        {"api_id": "x", "custom_middleware": {"pre": "x"}},
        {"api_id": "x", "custom_middleware": {"pre": [5]}},
        {"api_id": "x", "custom_middleware": {"pre": [{"name": {}}]}},
        {"api_id": "x", "event_handlers": {"events": {"AuthFailure": 5}}},
        {"x-tyk-api-gateway": 5},
        {"x-tyk-api-gateway": {"middleware": {"global": {"prePlugins": {}}}}},
    ],
    ids=str,
)
def test_definitions_of_wrong_kinds(definition: object, here: RunHere, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD, "x.json": json.dumps(definition)})

    here("doctor", "--apis", "x.json")
    status, _, errors = here("try", "GET", "/", "--api", "x.json")

    assert status == 1
    assert errors.startswith("coprocess: x.json: ")


@pytest.mark.parametrize(
    "manifest",
    [
        {"custom_middleware": 5},
        {"custom_middleware": [1]},
        {"custom_middleware": {"pre": "x"}},
        {"custom_middleware": {"pre": {"name": "works"}}},
        {"custom_middleware": {"pre": [5, None, []]}},
        {"custom_middleware": {"pre": [{"name": 5}]}},
        {"custom_middleware": {"auth_check": [1]}},
        {"custom_middleware": {"id_extractor": 5}},
        {"file_list": {"a": 1}},
        {"file_list": [[]]},
    ],
    ids=str,
)
def test_manifests_of_wrong_kinds(
    manifest: object, here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What loading gives is of no interest here, and takes a process.
    monkeypatch.setattr(importer, "_probe", lambda _: ([], []))
    write(tmp_path, {"b/a.py": GOOD, "b/manifest.json": json.dumps(manifest)})

    for line in (
        ("import", "b"),
        ("bundle", "build", "b", "-o", "b.zip"),
        ("bundle", "verify", "b"),
        ("doctor", "--bundles", "b"),
    ):
        status, output, errors = here(*line)
        assert status in (0, 1)
        assert output + errors


def test_import_says_which_part_of_a_manifest_is_of_the_wrong_kind(here: RunHere, tmp_path: Path) -> None:
    manifest = {"custom_middleware": {"pre": {"name": "works"}, "post": [5]}}
    write(tmp_path, {"b/a.py": GOOD, "b/manifest.json": json.dumps(manifest)})

    status, output, _ = here("import", "b")

    assert status == 1
    assert "manifest.json: custom_middleware.pre is {'name': 'works'}. Expected: a list of hooks" in output
    assert "manifest.json: custom_middleware.post[0] is 5. Expected: an object" in output


@pytest.mark.parametrize(
    "forged",
    ["[]", '{"hooks": 5}', '{"hooks": [{"type": "Nope"}], "problems": []}', "{", "[" * 5000],
    ids=lambda text: text[:12],
)
def test_a_forged_result_of_loading(forged: str, here: RunHere, tmp_path: Path) -> None:
    code = f"import os, pathlib\npathlib.Path('probe.json').write_text({forged!r})\nos._exit(0)\n"
    write(tmp_path, {"b/a.py": code})

    status, output, _ = here("import", "b")

    assert status == 1
    assert "the plugin's code changed what loading says of it" in output


def test_plugin_code_that_prints_no_text_and_leaves_processes(here: RunHere, tmp_path: Path) -> None:
    """The process that it leaves holds its output open, for ever."""
    code = "import os, time\nos.write(2, b'\\xff\\n')\nif not os.fork():\n    time.sleep(600)\nos._exit(3)\n"
    write(tmp_path, {"b/a.py": code})

    status, output, _ = here("import", "b")

    assert status == 1
    assert "loading ended the process (status 3)" in output


@pytest.mark.parametrize("source", ["x = " + "(" * 5000, "x = " + "1+" * 20000 + "1", "x = '\0'"], ids=len)
def test_source_that_no_compiler_takes(source: str, here: RunHere, tmp_path: Path) -> None:
    write(tmp_path, {"b/a.py": source, "b/sub.py/x.txt": ""})

    for line in (("import", "b"), ("check", "--handlers", "b"), ("doctor", "--handlers", "b")):
        assert here(*line)[0] in (0, 1)


def test_zips_that_are_none(here: RunHere, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "good.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", "x = 1\n" * 1000)
    broken = bytearray((tmp_path / "good.zip").read_bytes())
    broken[36:60] = b"\xff" * 24
    (tmp_path / "deflated.zip").write_bytes(broken)
    (tmp_path / "text.zip").write_text("x")
    (tmp_path / "empty.zip").write_text("")
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        archive.writestr("a", "")
        archive.writestr("a/b.py", "")
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as archive:
        archive.writestr("x" * 300 + ".py", "")
    os.mkfifo(tmp_path / "pipe.zip")

    for name in ("deflated", "text", "empty", "both", "long", "pipe", "gone"):
        status, _, errors = here("import", f"{name}.zip")
        assert (status, errors.startswith(f"coprocess: {name}.zip: ")) == (1, True), errors


@pytest.mark.parametrize(
    "line",
    [
        ("try", "GET", "http://[x/"),
        ("try", "GET", "/", "-d", "\udcff"),
        ("call", "Pre", "works", "-d", "\udcff"),
        ("call", "Pre", "works", "--session", "[" * 5000),
        ("call", "Pre", "works", "--session", '{"alias": 5}'),
        ("call", "Pre", "works", "--session", "@gone.json"),
        ("call", "Pre", "works", "--metadata", "x"),
        ("call", "Pre", "works", "--recording", "handlers"),
        ("doctor", "--sarif", "handlers"),
        ("bundle", "build", "handlers", "-o", "handlers"),
        ("replay", RECORDINGS / "auth_ok.json", "--apis", "handlers"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_taken(line: tuple[str | Path, ...], here: RunHere, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD})

    status, output, errors = here(*line)

    assert status in ((0, 1) if "-d" in line and line[0] in ("try", "call") else (1,))
    assert output + errors


@pytest.mark.parametrize(
    ("request_line", "says"),
    [
        (("G T", "/"), "'G T' is no method. Expected: GET, POST or another word of HTTP"),
        (("GET", "/a b"), "'/a b' is no path: it has a blank or a control character"),
        (("GET", "/", "-H", "X Y: 1"), "--header 'X Y: 1': 'X Y' is no name of a header"),
        (("GET", "/", "-H", "X: 1\r\nY: 2"), "a value has no line breaks"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["try", "call", "kong try", "envoy try"])
def test_a_request_that_no_client_sends_reaches_no_handler(
    command: str, request_line: tuple[str, ...], says: str, here: RunHere, tmp_path: Path
) -> None:
    write(tmp_path, {"handlers/a.py": GOOD})
    method, path, *more = request_line
    line = {
        "try": ("try", method, path),
        "call": ("call", "Pre", "works", "-X", method, "--url", path),
        "kong try": ("kong", "try", "handlers", method, path),
        "envoy try": ("envoy", "try", method, path),
    }[command]

    status, output, errors = here(*line, *more)

    assert (status, output) == (1, "")
    assert says in errors


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            ("kong", "serve", "gone.py", "-p", "gone"),
            "gone.py: no such file. Expected: a plugin's Python file",
        ),
        (("kong", "serve", "p.py", "--handlers", "handlers"), "PLUGIN.py and --handlers go not together"),
        (("kong", "dump", "-d", ".", "--handlers", "handlers"), "-d DIR and --handlers go not together"),
        (("kong", "conf"), "which plugin is meant? Expected: one of PLUGIN.py and --handlers DIR"),
        (("kong", "dump"), "which plugin is meant? Expected: one of PLUGIN.py, -d DIR and --handlers DIR"),
        (("kong", "serve", "-d", "gone"), "-d gone: no such folder"),
    ],
    ids=str,
)
def test_which_plugin_is_meant(line: tuple[str, ...], says: str, here: RunHere, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD, "p.py": "class Plugin: pass\n"})

    status, output, errors = here(*line)

    assert (status, output) == (1, "")
    assert errors.startswith(f"coprocess: {says}")


@pytest.mark.parametrize(
    "line", [("kong", "replay"), ("envoy", "replay"), ("replay", "--apis", ".")], ids=lambda line: line[0]
)
@pytest.mark.parametrize("content", [b"\xff", b"{", b"[]", b"{}", b'{"name": 5}'], ids=str)
def test_a_recording_that_is_none_is_named_once(
    line: tuple[str, ...], content: bytes, here: RunHere, tmp_path: Path
) -> None:
    (tmp_path / "x.json").write_bytes(content)

    status, output, _ = here(*line, "x.json")

    assert status == 1
    problem = output.splitlines()[0]
    assert problem.count("x.json") == 1
    assert "Error: " not in problem, "a type of Python's tells nothing here"


@pytest.mark.parametrize(
    "line", [("new", "x", "--gateway", "y"), ("envoy", "config", "--form", "y")], ids=lambda line: line[0]
)
def test_a_choice_that_is_none_is_told_in_our_words(line: tuple[str, ...], here: RunHere) -> None:
    status, _, errors = here(*line)

    assert status == 2
    assert "': 'y' is not one of '" in errors


def test_an_error_that_nobody_thought_of_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("coprocess.cli.app.app", broken)
    with pytest.raises(SystemExit, match="1"):
        main()

    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("coprocess: KeyError: 'surprise'. This is a fault of coprocess")


# Folders and files that one may not read, or write


@pytest.mark.skipif(sys.platform != "linux" and os.geteuid() == 0, reason="root has no rights taken there")
@pytest.mark.parametrize(
    ("line", "closed", "mode"),
    [
        (("new", "other"), ".", 0o500),
        (("new", "demo"), "demo", 0),
        (("import", "b"), "b", 0),
        (("import", "b"), "b/sub", 0),
        (("import", "b"), "b/a.py", 0),
        (("import", "b", "-o", "out"), ".", 0o500),
        (("bundle", "build", "b", "-o", "b.zip"), ".", 0o500),
        (("bundle", "verify", "b"), "b/manifest.json", 0),
        (("try", "GET", "/", "--api", "x.json"), "x.json", 0),
        (("doctor", "--apis", "x.json"), "x.json", 0),
        (("call", "Pre", "works", "--recording", "x.json"), "x.json", 0),
    ],
    ids=str,
)
def test_missing_permissions(line: tuple[str, ...], closed: str, mode: int, tmp_path: Path) -> None:
    write(
        tmp_path,
        {"b/a.py": GOOD, "b/sub/c.py": "", "b/manifest.json": "{}", "x.json": "{}", "handlers/a.py": GOOD},
    )
    (tmp_path / "demo").mkdir()
    (tmp_path / closed).chmod(mode)
    try:
        done = forked.run(
            [sys.executable, "-m", "coprocess", *line],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
            preexec_fn=fork_server.without_roots_rights,
        )
    finally:
        (tmp_path / closed).chmod(0o700)

    # 2: of an option's file, that is found before the command runs.
    assert done.returncode in (1, 2), (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert re.search("ermission denied|not readable", done.stdout + done.stderr)


@pytest.mark.parametrize("line", [("serve",), ("check",), ("try", "GET", "/")], ids=lambda line: line[0])
def test_a_working_folder_that_is_gone(line: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    words = [sys.executable, "-m", "coprocess", *line]

    done = subprocess.run(
        ["/bin/sh", "-c", 'cd gone && rmdir ../gone && exec "$@"', "sh", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip

    assert done.returncode == 1
    [said] = done.stderr.splitlines()
    assert said.startswith("coprocess: the working folder cannot be told: No such file or directory")


def test_a_service_that_may_open_too_few_files_names_the_limit(tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD})
    words = [sys.executable, "-m", "coprocess", "serve", "--listen", "127.0.0.1:0", "--admin", "off"]

    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -n 8 && exec "$@"', "sh", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip

    assert done.returncode == 1
    assert "coprocess: the service cannot start: too many open files" in done.stderr
    assert "ulimit -n, which is 8" in done.stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "there is no memory left"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "there is no memory left"),
        (OSError(errno.ENFILE, "Too many open files in system"), "too many open files"),
        (RuntimeError("can't start new thread"), "can't start new thread. Expected: limits"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("line", [("serve",), ("kong", "serve")], ids=lambda line: line[0])
def test_a_service_without_room_to_start_says_so(
    line: tuple[str, ...], error: Exception, says: str, here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr("coprocess.cli.app.app", fails)

    status, _, errors = here(*line)

    assert status == 1
    assert errors.startswith(f"coprocess: the service cannot start: {says}")


def test_a_terminal_that_cannot_show_a_character(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD})

    done = coprocess("try", "GET", "/", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})

    assert done.status == 0, done.errors


@pytest.mark.parametrize(
    "line",
    [
        ("check", "--handlers", "handlers"),
        ("try", "GET", "/", "--handlers", "handlers"),
        ("kong", "try", "plugin.py", "GET", "/"),
        ("kong", "conf", "plugin.py"),
    ],
    ids=" ".join,
)
def test_a_thread_that_never_ends_keeps_no_command(line: tuple[str, ...], tmp_path: Path) -> None:
    """Once, each waited for it for ever, after all was told."""
    thread = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    plugin = "class Plugin:\n    def __init__(self, config): ...\n    def access(self, kong): ...\n"
    write(tmp_path, {"handlers/a.py": thread + GOOD, "plugin.py": thread + plugin})
    # A real start: its own end is what is tried.
    command = [sys.executable, "-m", "coprocess", *line]
    ran = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout
