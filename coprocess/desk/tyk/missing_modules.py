"""Modules that handlers import and that are not there: told once, however many files want them."""

from __future__ import annotations

import re

_MISSING = re.compile(r": ModuleNotFoundError: No module named '([^']+)'")

REMEDY = "Install it beside coprocess, or put it into vendor/ of the bundle"


def remedy_for(module: str) -> str:
    if module.endswith("_pb2_grpc"):
        return (
            "It is of a gRPC server of its own, whose place this service takes: `coprocess import` tells how "
            "to split it into handlers"
        )
    return REMEDY


def missing_module(problem: str) -> str:
    """The module that was missing, by the text of a problem of loading; empty where that was another one."""
    found = _MISSING.search(problem)
    return found[1] if found else ""
