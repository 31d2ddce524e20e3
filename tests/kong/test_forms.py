"""Forms that plugins are written in, as kong-pdk's users have them: each loads and runs as it does there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coprocess.gateways.kong import pdk
from coprocess.gateways.kong.plugin import PluginOptions
from coprocess.gateways.kong.registration import load_plugins
from coprocess.gateways.kong.stand_in import PATH
from tests.kong.server import serving

SEEN = ("kong.service.request.set_header", ["x-seen", "1"])

#: What runs in access, each with what it asks Kong.
FORMS: dict[str, tuple[str, list[Any]]] = {
    "logs on the class for annotations, while it is imported and in its init": (
        """
        import kong_pdk.pdk.kong as kong
        kong.kong.log.warn("no settings: the defaults")

        class Plugin(object):
            def __init__(self, config):
                kong.kong.log.info("made")

            def access(self, k: kong.kong):
                k.service.request.set_header("x-seen", "1")
        """,
        [SEEN],
    ),
    "logs on the module of the annotations": (
        """
        from kong_pdk.pdk import kong

        class Plugin(object):
            def __init__(self, config):
                try:
                    raise OSError("nobody is there")
                except Exception as error:
                    kong.log.err(f"cannot connect: {error}")

            def access(self, k: kong.kong):
                kong.log.warn("no", "client")
                k.service.request.set_header("x-seen", "1")
        """,
        [SEEN],
    ),
    "calls levels of the log as Python does": (
        """
        class Plugin:
            def __init__(self, config): ...

            def access(self, kong):
                try:
                    raise OSError("nobody is there")
                except Exception as error:
                    kong.log.error(error)
                kong.log.warning("on we go")
        """,
        [("kong.log.err", ["nobody is there"]), ("kong.log.warn", ["on we go"])],
    ),
    "has a phase of Lua's plugins beside its own": (
        """
        class Plugin:
            def __init__(self, config): ...
            def access(self, kong): kong.service.request.set_header("x-seen", "1")
            def header_filter(self, kong): raise AssertionError
        """,
        [SEEN],
    ),
    "starts the server without asking whether it is run": (
        """
        from kong_pdk.cli import start_dedicated_server

        class Mine:
            def __init__(self, config): ...
            def access(self, kong): kong.service.request.set_header("x-seen", "1")

        start_dedicated_server("p", Mine, "0.1.0", 0)
        """,
        [SEEN],
    ),
    "is made by a decorator, and its phase is wrapped": (
        """
        import functools
        from dataclasses import dataclass
        from kong_pdk.exception import PDKException
        from kong_pdk.pdk.kong import kong as Kong

        def guarded(phase):
            @functools.wraps(phase)
            def run(self, kong, *args, **options):
                try:
                    return phase(self, kong, *args, **options)
                except PDKException as error:
                    kong.log.err(error)
            return run

        @dataclass
        class Plugin:
            config: dict

            @guarded
            def access(self, kong: Kong, times: int = 1) -> None:
                for _ in range(times):
                    kong.service.request.set_header("x-seen", str(times))
        """,
        [SEEN],
    ),
    "inherits its phases, and has helpers outside": (
        """
        def of_all(kong, name):
            value, err = kong.request.get_header(name)
            return "none" if err else value

        class Base:
            def __init__(self, config):
                self.config = config

            def access(self, kong):
                self.mark(kong, of_all(kong, "x-asked"))

        class Plugin(Base):
            @staticmethod
            def mark(kong, value):
                kong.service.request.set_header("x-got", value)
        """,
        [("kong.request.get_header", ["x-asked"]), ("kong.service.request.set_header", ["x-got", "asked"])],
    ),
    "runs a loop of its own in a sync phase": (
        """
        import asyncio

        class Plugin:
            def __init__(self, config): ...

            def access(self, kong):
                async def look_up():
                    await asyncio.sleep(0)
                    return "1"
                kong.service.request.set_header("x-seen", asyncio.run(look_up()))
        """,
        [SEEN],
    ),
    "exits with bytes, no headers, and the value of exit": (
        """
        import json

        class Plugin:
            def __init__(self, config): ...

            def access(self, kong):
                try:
                    return kong.response.exit(200, bytes(json.dumps({"ok": True}), "utf-8"), None)
                except Exception as error:
                    return kong.response.exit(500, {"message": str(error)})
        """,
        [("kong.response.exit", [200, b'{"ok": true}', None])],
    ),
    "names what it is passed as it likes": (
        """
        class Plugin:
            def __init__(self, conf=None): self.conf = conf or {}
            def access(self, kongs=None, **more): kongs.service.request.set_header("x-seen", "1")
        """,
        [SEEN],
    ),
    "annotates with the parts of the PDK, which kong-pdk has as modules": (
        """
        from __future__ import annotations
        import kong_pdk.pdk.kong as kong
        import kong_pdk.pdk.kong.ctx.shared
        from kong_pdk.pdk.kong.request import request as Request
        from kong_pdk.pdk.kong.service.request import request as ServiceRequest

        def mark(request: kong.cls_request, to: ServiceRequest, other: kong.nginx.shared = None) -> None:
            to.set_header("x-seen", str(len(request.get_header("x")) - 1))

        def read(request: Request): ...

        class Plugin:
            def __init__(self, config): ...
            def access(self, kong: kong.kong): mark(kong.request, kong.service.request)
        """,
        [("kong.request.get_header", ["x"]), SEEN],
    ),
    "sets up logs, reads its arguments, and starts a thread, all while it is imported": (
        """
        import argparse
        import logging
        import queue
        import signal
        import threading

        logging.basicConfig(level=logging.DEBUG, format="%(message)s")
        logger = logging.getLogger(__name__)
        parser = argparse.ArgumentParser()
        parser.add_argument("--own", default="1")
        options, _ = parser.parse_known_args()
        asked, answers = queue.Queue(), queue.Queue()

        def work():
            while True:
                answers.put(asked.get())

        threading.Thread(target=work, daemon=True).start()
        lock = threading.RLock()
        old = signal.getsignal(signal.SIGTERM)

        class Plugin:
            def __init__(self, config): ...

            def access(self, kong):
                logger.warning("served")
                with lock:
                    asked.put(options.own)
                    kong.service.request.set_header("x-seen", answers.get(timeout=20))
        """,
        [SEEN],
    ),
    "is a name for another class, with a base that is abstract, properties and slots": (
        """
        from abc import ABC, abstractmethod
        from typing import Any, ClassVar, Optional

        class Base(ABC):
            __slots__ = ("config", "_times")
            header: ClassVar[str] = "x-seen"

            def __init__(self, config: dict[str, Any]) -> None:
                self.config = config
                self._times: Optional[int] = None

            @property
            def times(self) -> int:
                return int(self.config.get("times", 1))

            @abstractmethod
            def value(self, kong): ...

            def access(self, kong) -> None:
                kong.service.request.set_header(self.header, self.value(kong))

        class Marks(Base):
            __slots__ = ()

            def value(self, kong):
                return str(self.times)

        Plugin = Marks
        """,
        [SEEN],
    ),
    "keeps what a request has for another phase, and asks the parts of which there are few": (
        """
        class Plugin:
            def __init__(self, config): ...

            def access(self, kong):
                request, to = kong.request, kong.service.request
                kong.ctx.shared.set("k", 1)
                asks = kong.node.get_id, kong.client.get_ip, kong.router.get_route, kong.nginx.get_subsystem
                for ask in asks:
                    ask()
                to.set_header("x-seen", "1")
        """,
        [
            ("kong.ctx.shared.set", ["k", 1]),
            ("kong.node.get_id", []),
            ("kong.client.get_ip", []),
            ("kong.router.get_route", []),
            ("kong.nginx.get_subsystem", []),
            SEEN,
        ],
    ),
    "asks from a pool of threads, and waits for it": (
        """
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(2)

        class Plugin:
            def __init__(self, config): ...
            def access(self, kong): pool.submit(kong.service.request.set_header, "x-seen", "1").result(20)
        """,
        [SEEN],
    ),
    "looks for a name that is not there": (
        """
        class Plugin:
            def __init__(self, config): ...

            def access(self, kong):
                table = getattr(kong, "table", None)
                if table is None and not hasattr(kong.request, "get_heder"):
                    kong.service.request.set_header("x-seen", "1")
        """,
        [SEEN],
    ),
    "is made by a function, with class methods for phases": (
        """
        def make(name):
            class Made:
                def __new__(cls, config):
                    return super().__new__(cls)
                def __init__(self, config): ...
                @classmethod
                def access(cls, kong): kong.service.request.set_header(name, "1")
            return Made

        Plugin = make("x-seen")
        """,
        [SEEN],
    ),
    "is called, not written as a method": (
        """
        class Phase:
            def __call__(self, kong): kong.service.request.set_header("x-seen", "1")

        class Plugin:
            access = Phase()
            def __init__(self, config): ...
        """,
        [SEEN],
    ),
    "is written on one line by a lambda, and partly applied": (
        """
        from functools import partial, partialmethod

        class Plugin:
            def __init__(self, config): ...
            def mark(self, name, kong): kong.service.request.set_header(name, "1")
            access = partialmethod(mark, "x-seen")
            rewrite = lambda self, kong: None
        """,
        [SEEN],
    ),
    "imports from beside it, also relatively": (
        """
        from .a_neighbour import mark

        class Plugin:
            def __init__(self, config): ...
            def access(self, kong): mark(kong)
        """,
        [SEEN],
    ),
    "has its library elsewhere": (
        """
        import sys
        sys.path.append("LIBRARY")
        import a_library_of_theirs

        class Plugin:
            def __init__(self, config): ...
            def access(self, kong): a_library_of_theirs.mark(kong)
        """,
        [SEEN],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_runs(tmp_path: Path, form: str) -> None:
    source, expected = FORMS[form]
    plugins, library = tmp_path / "plugins", tmp_path / "library"
    plugins.mkdir()
    library.mkdir()
    mark = "def mark(kong): kong.service.request.set_header('x-seen', '1')\n"
    (library / "a_library_of_theirs.py").write_text(mark)
    (plugins / "a_neighbour.py").write_text(mark)
    with serving(plugins, source.replace("LIBRARY", str(library))) as served:
        kong = served.connect()
        assert kong.run(kong.start(), get_header="asked") == expected


def test_names_of_tuples_are_none_of_the_pdk(tmp_path: Path) -> None:
    source = """
    class Plugin:
        def __init__(self, config): ...
        def access(self, kong):
            kong.own = "kept"
            for ask in (lambda: kong.log.count, lambda: kong.index("x"), lambda: kong.request.get_heder("x")):
                try:
                    ask()
                except AttributeError as error:
                    kong.log.err(error)
            kong.log.err(kong.own, repr(kong.request))
    """
    with serving(tmp_path, source) as served:
        kong = served.connect()
        told = [arguments for _, arguments in kong.run(kong.start())]
    assert [text.partition(" is no function")[0] for (text, *_) in told[:3]] == [
        "kong.log.count",
        "kong.index",
        "kong.request.get_heder",
    ]
    assert "Did you mean kong.request.get_header?" in told[2][0]
    assert told[3] == ["kept", "<kong.request>"]


def test_the_nearest_of_a_name_of_pythons_own_is_not_looked_for() -> None:
    """Once, from Python 3.12 on, each traceback with a `kong` in it looked for one."""
    kong = pdk.kong_class("lua")((None,))
    before = pdk.unknown_name.cache_info().misses
    assert not hasattr(kong.request, "__wrapped__")
    assert not hasattr(kong.request, "__dict__")
    assert pdk.unknown_name.cache_info().misses == before


def test_what_only_the_phase_can_ask_is_told_where_the_class_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "p.py"
    path.write_text("import kong_pdk.pdk.kong as kong\nkong.kong.request.get_header('x')\n")
    loaded, _ = load_plugins([path], PluginOptions())
    assert "kong.request.get_header is called on the class for annotations" in str(loaded.problems[0])


def test_a_phase_that_never_runs_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.py"
    path.write_text("class Plugin:\n def access(self, kong): ...\n def header_filter(self, kong): ...\n")
    loaded, (plugin,) = load_plugins([path], PluginOptions())
    assert [str(phase["Phases"]) for phase in (plugin.info(),)] == ["['access']"]
    assert loaded.left_out == [f"{path.resolve()}: Plugin.header_filter: Kong runs this phase in itself only"]


def test_a_package_that_is_run_by_its_name(tmp_path: Path) -> None:
    package = tmp_path / "theirs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(
        "print('loaded')\nclass Plugin:\n def __init__(self, config): ...\n def access(self, kong): ...\n"
    )
    (package / "__main__.py").write_text(
        "from kong_pdk.cli import start_dedicated_server\nfrom .plugin import Plugin\n"
        "start_dedicated_server('theirs', Plugin, '0.1.0', 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PATH)}
    words = [sys.executable, "-m", "theirs", "--dump"]
    ran = subprocess.run(words, capture_output=True, env=environment, cwd=tmp_path, text=True, check=True)
    assert [(each["Name"], each["Version"]) for each in json.loads(ran.stdout)] == [("theirs", "0.1.0")]
    assert "loaded" in ran.stderr


def test_what_a_plugin_imports_from_a_package_elsewhere_may_name_kong_pdk(tmp_path: Path) -> None:
    """Once, kong_pdk was there for the plugin's own folder alone, where none was installed."""
    package = tmp_path / "gateway"
    (package / "plugins").mkdir(parents=True)
    (package / "base.py").write_text(
        "import kong_pdk.pdk.kong as kong\n"
        "from kong_pdk.exception import PDKException\n"
        "class Base:\n"
        " def __init__(self, config): ...\n"
        " def access(self, k: kong.kong): k.response.exit(200, b'ok', None)\n"
    )
    file = package / "plugins" / "auth.py"
    file.write_text("from gateway.base import Base\nclass Plugin(Base): ...\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-m", "coprocess", "kong", "dump", str(file)]
    ran = subprocess.run(words, capture_output=True, env=environment, cwd="/", text=True, check=True)
    assert [(each["Name"], each["Phases"]) for each in json.loads(ran.stdout)] == [("auth", ["access"])]


MAIN_BLOCK = """
from kong_pdk.cli import start_dedicated_server

class Plugin:
    def __init__(self, config): ...
    def access(self, kong): kong.service.request.set_header("x-client", client)

if __name__ == "__main__":
    client = "connected"
    start_dedicated_server("p", Plugin, "0.1.0", 0)
"""
RUN = """
import runpy, sys
from pathlib import Path
import coprocess.cli
from tests.kong.server import serving_gateway
from coprocess.gateways.kong.plugin import PluginOptions
from coprocess.gateways.kong.registration import plugin_server

def main():
    path = Path(sys.argv[3])
    with serving_gateway(plugin_server([path], PluginOptions()), Path("s")) as served:
        kong = served.connect()
        print(kong.run(kong.start("{}", "p")))

coprocess.cli.main = main
"""


def test_what_a_file_sets_only_where_it_is_run_is_there_when_it_is(tmp_path: Path) -> None:
    """Once, a client that a plugin connects in its main block was no name in its phases."""
    (tmp_path / "p.py").write_text(MAIN_BLOCK)
    (tmp_path / "sitecustomize.py").write_text(RUN)
    paths = (str(tmp_path), str(Path(__file__).parents[2]), str(PATH))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    words = [sys.executable, str(tmp_path / "p.py")]
    ran = subprocess.run(words, capture_output=True, env=environment, cwd=tmp_path, text=True, check=True)
    assert ran.stdout == "[('kong.service.request.set_header', ['x-client', 'connected'])]\n"
