"""How plugin files start a plugin server of their own."""

from __future__ import annotations

import sys
from typing import Any


def start_dedicated_server(
    name: str, plugin: Any, _version: Any = None, _priority: Any = 0, _schema: Any = ()
) -> None:
    """Serve the file that calls this, by the flags it was started with; with --dump, tell of it instead.

    The file is loaded once more, as a module: what it says there is what counts. It may start the server
    without asking whether it is run: loaded, it starts none.
    """
    loader = sys.modules.get("coprocess.loading.loader")
    if loader is not None and loader.now_loading:
        return
    _main(["kong", "serve", sys.argv[0], "--name", name, *sys.argv[1:]])


def start_server() -> None:
    """Serve the plugins of a folder, by the flags: `-d DIR`."""
    _main(["kong", "serve", *sys.argv[1:]])


def _main(words: list[str]) -> None:
    # Only where a file is run: a plugin that is loaded here starts no server.
    import importlib

    sys.argv = ["coprocess", *words]
    importlib.import_module("coprocess.cli").main()
