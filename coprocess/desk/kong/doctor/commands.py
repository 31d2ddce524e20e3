"""Start and query commands: whether they run as Kong runs them, and where servers listen."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.kong.doctor.conf import DEFAULT_PREFIX, PluginServer
from coprocess.desk.kong.doctor.findings import finding
from coprocess.gateways.kong.plugin_file import has_plugin, known_name, name_in

#: What `sh` finds commands in where there is no environment.
_SH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def words_of(command: str) -> list[str]:
    """As `sh` parts them; empty where it cannot."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def program_of(words: Sequence[str]) -> str | None:
    """What is run; None where a shell's own syntax hides it."""
    rest = list(words)
    while rest and re.match(r"[A-Za-z_]\w*=", rest[0]):
        rest.pop(0)
    if rest and rest[0].endswith("/env"):
        rest = [word for word in rest[1:] if not re.match(r"[A-Za-z_]\w*=", word) and word != "-i"]
    if not rest or any(sign in rest[0] for sign in "$`*~;|&"):
        return None
    return rest[0]


def program_problem(program: str, what: str) -> str:
    """Why Kong cannot run it as `what`; empty where it can."""
    if "/" not in program:
        search = os.environ.get("PATH", "") if what == "query_cmd" else _SH_PATH
        if shutil.which(program, path=search) is None:
            where = "on PATH" if what == "query_cmd" else "where sh looks without an environment"
            return f"{program!r} is not found {where}."
        return ""
    path = Path(program)
    if not path.is_absolute():
        return f"{program!r} is no absolute path: it counts from where Kong was started."
    if not path.exists():
        return f"{program} is not there."
    if not os.access(path, os.X_OK) or path.is_dir():
        return f"{program} has no executable bit."
    if path.suffix == ".py":
        with path.open("rb") as file:
            first = file.readline()
        if not first.startswith(b"#!"):
            return f"{program} does not begin with #!: sh takes it for a shell script."
        interpreter = first[2:].split()
        if interpreter and not Path(os.fsdecode(interpreter[0])).exists():
            return f"{program} asks for {os.fsdecode(interpreter[0])}, which is not there."
    return ""


def remedy_of(program: str) -> str:
    """What to do about a program that does not run."""
    if program.endswith(".py"):
        return (
            f"chmod +x {program}, with #!/usr/bin/env python3 first; or let `coprocess kong conf` "
            "write the commands."
        )
    return "Write the absolute path of a program that is there; `coprocess kong conf PLUGIN.py` does."


def environment_findings(server: PluginServer, command: str, words: Sequence[str]) -> Iterator[FileFinding]:
    """A start command that relies on variables: it gets none."""
    found = re.findall(r"\$\{?(\w+)|(?<!\S)(~)", command)
    names = [name or tilde for name, tilde in found if (name or tilde) != "PWD"]
    if names:
        yield finding(
            "conf-environment",
            server.conf.path,
            server.line("start_cmd"),
            f"start_cmd uses {', '.join(names)}. Kong starts it with an empty environment.",
            "It is put together wrongly, and no server listens.",
            "Write the values: start_cmd = /usr/bin/env NAME=value …, or nginx_main_env in kong.conf.",
        )
    program = program_of(words) or ""
    if program.endswith("/env") or any("=" in word for word in words[:1]):
        return
    if Path(program).suffix == ".py" and Path(program).exists():
        with Path(program).open("rb") as file:
            if b"/env " in file.readline():
                yield finding(
                    "conf-environment",
                    server.conf.path,
                    server.line("start_cmd"),
                    f"{program} finds its Python by env, and start_cmd has no PATH of yours.",
                    "The system's Python runs, which may lack what the plugin imports; the query command "
                    "has the full environment, and hides that.",
                    "Name the interpreter: start_cmd = /path/to/venv/bin/python …",
                    Severity.NOTE,
                )


def served_sockets(words: Sequence[str]) -> list[str]:
    """Where a `coprocess kong serve` listens; empty for other servers, which nobody here knows."""
    if "serve" not in words or "kong" not in words:
        return []
    files = [word for word in words if word.endswith(".py")]
    prefix = _option(words, ("-p", "--kong-prefix", "-kong-prefix")) or DEFAULT_PREFIX
    named = _option(words, ("--socket-name",))
    if named:
        return [f"{prefix}/{named}"]
    name = _option(words, ("--name",))
    if name is None:
        if not files or not Path(files[0]).is_file():
            return []
        name = known_name(Path(files[0]))
        if name is None:
            return []
    return [f"{prefix}/{name}.socket", f"{prefix}/{name}.sock"]


def plugins_of(words: Sequence[str]) -> list[Path]:
    """The plugins' files that a start command names, or that are in the folder that it names."""
    files = [Path(word) for word in words if word.endswith(".py") and Path(word).is_file()]
    folder = _folder(words)
    if folder is not None:
        files += [path for path in sorted(Path(folder).glob("*.py")) if has_plugin(path)]
    return files


def names_of(words: Sequence[str]) -> list[str]:
    """The names of the plugins in `plugins_of`, as far as they can be read."""
    of_folder = _folder(words) is not None
    return [name_in(path, of_folder=of_folder) for path in plugins_of(words)]


def _folder(words: Sequence[str]) -> str | None:
    return _option(words, ("-d", "--plugins-directory", "-plugins-directory"))


def _option(words: Sequence[str], names: tuple[str, ...]) -> str | None:
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else (words[index + 1] if index + 1 < len(words) else None)
    return None
