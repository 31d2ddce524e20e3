"""The `coprocess` command. Each command is a module of this package."""

from coprocess.cli.app import main

__all__ = ["main"]
