"""What plugins are called: by what their files say, read or run, and in a folder by their files."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from coprocess.desk.kong.doctor.commands import served_sockets
from coprocess.gateways.kong.plugin import PluginOptions
from coprocess.gateways.kong.plugin_file import known_name
from coprocess.gateways.kong.registration import load_plugins
from tests import forked
from tests.kong.test_commands import KONG

CLASS = """
class Plugin:
    def __init__(self, config): ...
    def access(self, kong): ...

"""
START = (
    "    from kong_pdk.cli import start_dedicated_server\n    start_dedicated_server({}, Plugin, '1.0.0')\n"
)
MAIN = 'if __name__ == "__main__":\n'

#: What the file says before its main block, what it passes there, and the name; None: it is to be asked for.
NAMES = {
    "as text": ("", "'theirs'", "theirs"),
    "as a constant": ("NAME = 'theirs'\n", "NAME", "theirs"),
    "as an annotated constant": ("NAME: str = 'theirs'\n", "NAME", "theirs"),
    "as constants put together": ("A = 'the'\nB = A + 'i'\n", "f'{B}rs'", "theirs"),
    "by keyword": ("NAME = 'theirs'\n", "name=NAME, plugin", "theirs"),
    "computed": ("NAME = 'THEIRS'.lower()\n", "NAME", None),
    "set twice": ("NAME = 'no'\nif CLASS := True:\n    NAME = 'theirs'\n", "NAME", None),
    "imported": ("from a_neighbour import NAME\n", "NAME", None),
}


def written(folder: Path, form: str) -> Path:
    before, passed, _ = NAMES[form]
    path = folder / "file.py"
    start = START.format(passed).replace("plugin, Plugin, '1.0.0'", "plugin=Plugin, _version='1.0.0'")
    path.write_text(before + CLASS + MAIN + start)
    (folder / "a_neighbour.py").write_text("NAME = 'theirs'\n")
    return path


@pytest.mark.parametrize("form", NAMES)
def test_a_name_is_read_as_it_is_told(tmp_path: Path, form: str) -> None:
    """Once, one that was no text in the call was told to Kong, and the socket was called as the file."""
    path = written(tmp_path, form)
    name = NAMES[form][2]
    assert known_name(path) == name
    _, (plugin,) = load_plugins([path], PluginOptions())
    assert plugin.name == "theirs"
    sockets = ["/p/theirs.socket", "/p/theirs.sock"] if name else []
    assert served_sockets([*KONG, "serve", str(path), "-p", "/p"]) == sockets


def test_a_name_that_only_the_main_block_has(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text(CLASS + MAIN + "    name = 'theirs'\n" + START.format("name"))
    assert known_name(path) == "theirs"
    _, (plugin,) = load_plugins([path], PluginOptions())
    assert plugin.name == "theirs"


def test_the_plugins_of_a_folder_are_called_as_their_files(tmp_path: Path) -> None:
    """Once, those that were copied from one example, and pass its name, were left out but for the first.

    As with kong-pdk, what the module says counts there: the name of the start is that of a server.
    """
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(
            f"version = '1.2.3'\npriority = 7\nSchema = ({{'{name}': {{'type': 'string'}}}},)\n"
            + CLASS
            + MAIN
            + START.format("'py-hello'").replace("'1.0.0'", "'1.0.0', 5, []")
        )
    (tmp_path / "three.py").write_text(
        CLASS.replace("Plugin", "Three") + MAIN + START.format("'of-a-start'").replace("Plugin", "Three")
    )
    ran = forked.run([*KONG, "dump", "-d", str(tmp_path)], capture_output=True, text=True, check=True)
    told = {each["Name"]: each for each in json.loads(ran.stdout)}
    assert set(told) == {"one", "two", "of-a-start"}
    assert (told["two"]["Version"], told["two"]["Priority"]) == ("1.2.3", 7)
    assert told["two"]["Schema"]["fields"][0]["config"]["fields"] == [{"two": {"type": "string"}}]
    assert told["of-a-start"]["Version"] == "1.0.0"
    alone = forked.run([*KONG, "dump", str(tmp_path / "two.py")], capture_output=True, text=True, check=True)
    assert [(each["Name"], each["Priority"]) for each in json.loads(alone.stdout)] == [("py-hello", 5)]


def test_what_the_file_computes_is_no_name_to_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text(
        textwrap.dedent(
            """
            NUMBER = 3
            from kong_pdk.cli import start_dedicated_server
            start_dedicated_server(NUMBER, Plugin)
            """
        )
    )
    assert known_name(path) is None
