"""`coprocess check`."""

from __future__ import annotations

from pathlib import Path

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
    assert rows["Hook", "Old"][:3] == ["every", "embedded", "sync"]
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
    assert done.errors.splitlines() == ["no handlers found", "0 hooks, 0 problems"]


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


def test_a_missing_module_is_one_line(coprocess: Command, tmp_path: Path) -> None:
    wanting = "import no_such_module\n"
    write(tmp_path, {"handlers/a.py": wanting, "handlers/b.py": GOOD + wanting, "handlers/c.py": GOOD})

    done = coprocess("check")

    first, last = done.errors.splitlines()
    places = f"{tmp_path}/handlers/a.py:1, {tmp_path}/handlers/b.py:4"
    assert first.startswith(f"{places}: the module no_such_module is not installed. ")
    assert last == "1 hook, 2 problems"


def test_a_hook_for_every_type_is_one_row(coprocess: Command, tmp_path: Path) -> None:
    plugin = "from tyk.decorators import *\n@Hook\ndef H(request, session, spec): return request, session\n"
    write(tmp_path, {"handlers/plug/manifest.json": "{}", "handlers/plug/p.py": plugin})

    done = coprocess("check")

    [_, row] = done.output.splitlines()
    assert row.split()[:2] == ["Hook", "H"]
    assert done.errors == "1 hook, 0 problems\n"
