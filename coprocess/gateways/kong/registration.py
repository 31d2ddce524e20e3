"""Kong's plugin server, as the process registers it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from coprocess.errors import LoadError
from coprocess.gateways.kong.engine import KongEngine, server_greeting
from coprocess.gateways.kong.gateway import KongGateway
from coprocess.gateways.kong.home import HOME
from coprocess.gateways.kong.instances import Instances
from coprocess.gateways.kong.plugin import Plugin, PluginOptions, plugin_of
from coprocess.loading.hooks import Hook, HookTable
from coprocess.loading.loader import Loaded, load_files
from coprocess.runtime.registration import GatewayOptions, Registration


def load_plugins(paths: Sequence[Path], options: PluginOptions) -> tuple[Loaded, list[Plugin]]:
    """The plugins in `paths`, a file each. What is wrong with them is a problem of what is loaded.

    Raises LoadError where one is not there.
    """
    for path in paths:
        if not path.is_file():
            raise LoadError(f"{path}: no such file. Expected: a plugin's Python file")
        if path.suffix != ".py":
            raise LoadError(f"{path}: its name does not end in .py. Expected: a plugin's Python file")
    plugins: list[Plugin] = []

    def hooks(module: ModuleType, path: Path) -> list[Hook]:
        plugin = plugin_of(module, path, options)
        found = plugin.hooks(lua_style=options.lua_style)
        plugins.append(plugin)
        return found

    return load_files(paths, HOME, hooks), plugins


def plugin_server(paths: Sequence[Path], options: PluginOptions, *, follows_another: bool) -> Registration:
    """A plugin server of the plugins in `paths`, which are loaded anew with each reload.

    `follows_another`: Kong may know instances by ids that a server before this one gave.
    """
    # Kong counts in floats: below 2^53 they are exact. No two starts on one socket give the same ids.
    instances = Instances(secrets.randbelow(2**30) << 20 if follows_another else 0)
    greeting = server_greeting() if follows_another else b""

    def make(table: HookTable, _: GatewayOptions) -> KongGateway:
        return KongGateway(table, instances)

    return Registration(
        HOME,
        make,
        services=(),
        methods=KongGateway.METHODS,
        engine=lambda engine_options: KongEngine(engine_options, greeting),
        load=lambda: load_plugins(paths, options)[0],
    )
