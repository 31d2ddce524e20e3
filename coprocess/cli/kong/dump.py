"""`coprocess kong dump`: what Kong's query command prints."""

from __future__ import annotations

from coprocess.cli.kong.plugins import (
    Folder,
    Handlers,
    Name,
    PluginFile,
    dump_plugins,
    expect_handlers_alone,
    plugin_files,
    read_handlers,
    read_plugins,
)
from coprocess.gateways.kong.plugin import PluginOptions


def dump(
    plugin: PluginFile = None, name: Name = None, directory: Folder = None, handlers: Handlers = None
) -> None:
    """Tell of the plugin as JSON, whatever it prints itself: kong.conf's query_cmd."""
    expect_handlers_alone(plugin, directory, handlers)
    if handlers:
        folders = handlers
        dump_plugins(lambda: [read_handlers(folders, name)])
        return
    files = plugin_files(plugin, directory)
    dump_plugins(lambda: read_plugins(files, PluginOptions(name=name, of_folder=files.of_folder)))
