"""`coprocess kong dump`: what Kong's query command prints."""

from __future__ import annotations

from coprocess.cli.kong.plugins import Folder, Name, PluginFile, plugin_files, print_dump, read_plugins
from coprocess.gateways.kong.plugin import PluginOptions


def dump(plugin: PluginFile = None, name: Name = None, directory: Folder = None) -> None:
    """Tell of the plugin as JSON, whatever it prints itself: kong.conf's query_cmd."""
    plugins = read_plugins(plugin_files(plugin, directory), PluginOptions(name=name))
    print_dump([each.info() for each in plugins])
