"""Kong's plugin server, as the process registers it."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from coprocess.errors import CoprocessError, HandlerError, LoadError
from coprocess.gateways.kong import kept, native, stand_in
from coprocess.gateways.kong.engine import KongEngine, server_greeting
from coprocess.gateways.kong.gateway import KongGateway
from coprocess.gateways.kong.home import HOME
from coprocess.gateways.kong.instances import Instances
from coprocess.gateways.kong.plugin import Plugin, PluginOptions, plugin_of
from coprocess.gateways.kong.sharing import Front, Share, SharedInstances
from coprocess.loading.hooks import Hook, HookTable
from coprocess.loading.loaded import Loaded, Problem
from coprocess.loading.loader import load_files
from coprocess.runtime.registration import GatewayOptions, Registration


def expect_files(paths: Sequence[Path]) -> None:
    """Raises LoadError where one of the plugins' files is not there, or is none."""
    for path in paths:
        if path.is_dir():
            raise LoadError(f"{path}: a folder. Expected: a plugin's Python file")
        if not path.is_file():
            raise LoadError(f"{path}: no such file. Expected: a plugin's Python file")
        if path.suffix != ".py":
            raise LoadError(f"{path}: its name does not end in .py. Expected: a plugin's Python file")


def load_plugins(
    paths: Sequence[Path], options: PluginOptions, left_out: Sequence[str] = ()
) -> tuple[Loaded, list[Plugin]]:
    """The plugins in `paths`, a file each. What is wrong with them is a problem of what is loaded.

    `left_out`: files beside them, with the reason, to be told with what is loaded.

    Raises LoadError where one is not there.
    """
    expect_files(paths)
    plugins: list[Plugin] = []

    def hooks(module: ModuleType, path: Path) -> list[Hook]:
        plugin = plugin_of(module, path, options)
        if (first := next((each for each in plugins if each.name == plugin.name), None)) is not None:
            raise HandlerError(
                f'{path}: a second plugin "{plugin.name}"; the first, which counts, is {first.path}. '
                "Expected: a name of its own, or one of the two files elsewhere"
            )
        found = plugin.hooks(lua_style=options.lua_style)
        plugins.append(plugin)
        return found

    stand_in.offer()
    loaded = load_files(paths, HOME, hooks)
    loaded.problems = [_with_remedy(problem) for problem in loaded.problems]
    loaded.left_out += [*left_out, *(text for plugin in plugins for text in plugin.never_run)]
    return loaded, plugins


def _with_remedy(problem: Problem) -> Problem:
    """Who moves from kong-pdk has what plugins import beside that, for another Python maybe."""
    if ": ModuleNotFoundError: " not in problem.text:
        return problem
    text = (
        f"{problem.text}. Install it for {sys.executable}, which loads the plugin, or name it by PYTHONPATH"
    )
    return replace(problem, text=text)


def handlers_server(
    folders: Sequence[Path],
    name: str,
    *,
    share: Share | None = None,
    limits_store: Callable[[], str | None] = lambda: None,
    keep_s: float = kept.DEFAULT_KEEP_S,
) -> Registration:
    """A plugin server of native handlers: one plugin of that name, of all that is in `folders`.

    `limits_store` gives where rate and quota are counted, when it serves; None: in this process. `keep_s`:
    how long a request may take from its access to its response phase.
    """
    return _server(lambda: load_handlers(folders, name, limits_store(), keep_s, share)[0], share)


def load_handlers(
    folders: Sequence[Path],
    name: str,
    limits_store: str | None = None,
    keep_s: float = kept.DEFAULT_KEEP_S,
    share: Share | None = None,
) -> tuple[Loaded, Plugin | None]:
    """The plugin of native handlers; None where they cannot be loaded, which is a problem then."""
    roots = [folder.resolve() for folder in folders]
    try:
        made = native.native_class(roots, name, limits_store=limits_store, keep_s=keep_s, share=share)
    except CoprocessError as error:
        return Loaded(HookTable(), [Problem(roots[0], str(error))], roots=roots), None
    plugin = Plugin(name, made, roots[0], native.VERSION, native.PRIORITY, native.SCHEMA)
    return Loaded(HookTable(plugin.hooks(lua_style=False)), roots=roots), plugin


def plugin_server(
    paths: Sequence[Path],
    options: PluginOptions,
    *,
    share: Share | None = None,
    left_out: Sequence[str] = (),
) -> Registration:
    """A plugin server of the plugins in `paths`, which are loaded anew with each reload.

    `share`: this is one of several processes.
    """
    return _server(lambda: load_plugins(paths, options, left_out)[0], share)


def _server(load: Callable[[], Loaded], share: Share | None) -> Registration:
    if share is not None:
        instances: Instances = SharedInstances(share.folder)
        # The same of all workers, and of those that take the place of one.
        greeting = server_greeting(os.getppid())
    else:
        # Kong may know instances of a server before this one, and none but Kong can tell: so no two starts
        # give the same ids. Kong counts in floats: below 2^53 they are exact.
        instances = Instances(secrets.randbelow(2**30) << 20)
        greeting = server_greeting(os.getpid())

    def make(table: HookTable, _: GatewayOptions) -> KongGateway:
        return KongGateway(table, instances)

    return Registration(
        HOME,
        make,
        services=(),
        methods=KongGateway.METHODS,
        engine=lambda engine_options: KongEngine(engine_options, greeting, share),
        front_engine=Front,
        load=load,
    )
