"""`coprocess check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import BAD, GOOD, HANDLERS, Command
from tests.loading import write


def test_check_lists_the_hooks(coprocess: Command) -> None:
    done = coprocess("check", "--handlers", HANDLERS)

    assert done.status == 0
    lines = [line.split() for line in done.output.splitlines()]
    assert lines[0] == ["TYPE", "NAME", "API", "STYLE", "KIND", "SOURCE"]
    rows = {(line[0], line[1]): line[2:] for line in lines[1:]}
    source = f"{HANDLERS}/handlers.py"
    assert rows["Pre", "stamp"][:3] == ["every", "native", "sync"]
    assert rows["Pre", "stamp_async"][:3] == ["only-this", "native", "async"]
    assert rows["any", "Old"][:3] == ["every", "embedded", "sync"]
    text = (HANDLERS / "handlers.py").read_text().splitlines()
    assert rows["CustomKeyCheck", "admit"][3] == f"{source}:{text.index('@CustomKeyCheck') + 1}"
    assert done.errors == f"{len(rows)} hooks, 0 problems\n"


def test_check_takes_the_default_folders(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD, "event_handlers/b.py": GOOD.replace("works", "second")})

    done = coprocess("check")

    assert (done.status, done.errors) == (0, "2 hooks, 0 problems\n")


def test_check_fails_on_a_problem_and_lists_the_rest(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD, "handlers/bad.py": BAD, "handlers/worse.py": "def f(:"})

    done = coprocess("check")

    assert done.status == 1
    assert "works" in done.output
    lines = done.errors.splitlines()
    assert f"{tmp_path}/handlers/bad.py:2: ValueError: wrong" in lines
    assert "Traceback (most recent call last):" in lines
    assert f"{tmp_path}/handlers/worse.py:1: SyntaxError: invalid syntax" in lines
    assert lines[-1] == "1 hook, 2 problems"


def test_check_fails_where_there_is_nothing(coprocess: Command) -> None:
    done = coprocess("check")

    assert done.status == 1
    none, counts = done.errors.splitlines()
    assert none.startswith("no handlers found in handlers, event_handlers: no such folders here. Expected: ")
    assert counts == "0 hooks, 0 problems"


def test_check_of_a_folder_that_is_missing(coprocess: Command, tmp_path: Path) -> None:
    [line] = coprocess("check", "--handlers", "nowhere").failed()

    assert line == f"coprocess: {tmp_path}/nowhere: no such folder. Expected: a folder with handler modules"


def test_check_takes_folders_from_variable_and_file(coprocess: Command, tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a/x.py": GOOD, "b/x.py": GOOD.replace("works", "of_b"), "coprocess.toml": 'handlers = ["a"]'},
    )

    assert "works" in coprocess("check").output
    by_variable = coprocess("check", env={"COPROCESS_HANDLERS": "b"}).output
    assert "of_b" in by_variable
    assert "works" not in by_variable
    assert "works" in coprocess("check", "--handlers", "a", env={"COPROCESS_HANDLERS": "b"}).output


HOSTILE = """
from coprocess import Post, Pre
@Pre
def changes(request):
    print("printed \\x1b[2J \\u202e \\x85")
    request.headers["X-A"] = "\\x9b2J\\u2066"
@Post
def fails(request):
    raise ValueError("raised \\x1b]0;title\\x07\\u2028forged")
"""


@pytest.mark.parametrize(
    "words",
    [
        ["check"],
        ["try", "GET", "/a", "-H", "X-B: \x1b[8m\u202e"],
        ["try", "--json", "GET", "/a"],
        ["call", "Post", "fails"],
        ["check", "--handlers", "no\x1b[2J"],
    ],
)
def test_no_command_prints_what_a_terminal_obeys(
    coprocess: Command, tmp_path: Path, words: list[str]
) -> None:
    """Names of files, what handlers print and raise, what requests have in them."""
    name = "bad\x1b[2J\n2 hooks, 0 problems\u202e"
    write(tmp_path, {"handlers/a.py": HOSTILE, f"handlers/{name}.py": BAD})

    done = coprocess(*words)

    written = done.output + done.errors
    assert written
    assert not [each for each in written if not each.isprintable() and each not in "\n\t"]
    assert not [line for line in written.splitlines() if line.startswith("2 hooks, 0 problems\\u202e")]
    if "--json" in words:
        json.loads(done.output)


ONCE = """
import multiprocessing, warnings
from coprocess import Pre
multiprocessing.set_start_method("spawn")
print("loaded")

@Pre
def works(request): pass
"""


def test_check_warns_of_what_fails_at_every_reload(coprocess: Command, tmp_path: Path) -> None:
    once = "import builtins\nassert not hasattr(builtins, 'is_done')\nbuiltins.is_done = True\n"
    write(tmp_path, {"handlers/a.py": ONCE, "handlers/b.py": once})

    done = coprocess("check")

    assert done.status == 0
    assert done.output.count("loaded") == 1
    first, second, last = done.errors.splitlines()
    assert first.startswith(
        f"warning: every reload fails: {tmp_path}/handlers/a.py:4: RuntimeError: context has"
    )
    assert "The start method is one for the whole process" in first
    assert second.startswith(f"warning: every reload fails: {tmp_path}/handlers/b.py:2: AssertionError: ")
    assert "This code has been loaded before in this process, as it is now" in second
    assert last == "1 hook, 0 problems, 2 warnings"


def test_check_tells_of_hooks_that_are_left_out(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD, "handlers/test_b.py": GOOD})

    done = coprocess("check")

    assert done.status == 0
    assert "warning: " in done.errors
    assert "test_b.py: declares hooks and is not run" in done.errors


def test_check_has_one_row_for_a_hook_of_any_type(coprocess: Command, tmp_path: Path) -> None:
    code = "from tyk.decorators import *\n@Hook\ndef {name}({arguments}): pass\n"
    files = {
        "handlers/a.py": code.format(name="three", arguments="a, b, c"),
        "handlers/b.py": code.format(name="five", arguments="a, b, c, d, e"),
        "handlers/c.py": code.format(name="both", arguments="a, b, c") + "@Post\ndef both(a, b, c): pass\n",
    }
    write(tmp_path, files)

    done = coprocess("check")

    rows = sorted(tuple(line.split()[:2]) for line in done.output.splitlines()[1:])
    assert rows == [
        ("Post", "both"),
        ("Pre,PostKeyAuth,CustomKeyCheck,Response", "both"),
        ("any", "five"),
        ("any", "three"),
    ]
    assert done.errors == "4 hooks, 0 problems\n"


def test_check_has_one_line_for_a_module_that_is_missing(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {f"handlers/{each}.py": "import no_such_module\n" for each in "ab"})
    write(tmp_path, {"handlers/c.py": GOOD})

    done = coprocess("check")

    places = f"{tmp_path}/handlers/a.py:1, {tmp_path}/handlers/b.py:1"
    assert done.status == 1
    first, last = done.errors.splitlines()
    assert first.startswith(
        f"{places}: the module no_such_module is not installed. Install it beside coprocess"
    )
    assert last == "1 hook, 2 problems"
