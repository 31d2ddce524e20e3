"""A module that imports its neighbours in every way."""

import plain
import plain as renamed
import package.deep.leaf
from package import exported, submodule
from package.deep import leaf
from package.submodule import NAME as SUBMODULE_NAME
from plain import *
from plain import greet
from templates import page
from vendored import VERSION, version_of_helper

from . import plain as relative
from .package import submodule as relative_submodule
from .plain import greet as relative_greet

from coprocess import Pre, Request

assert plain is renamed is relative
assert submodule is package.submodule is relative_submodule
assert package.deep.leaf is leaf
assert relative_greet is greet
assert SUBMODULE_NAME == "submodule"
assert exported == "exported by the package"
assert starred == "by a star" and "_hidden" not in globals()
assert VERSION == "vendored 1" and version_of_helper() == "vendored helper"
assert page.TEXT == "a folder without __init__.py"
assert __file__.endswith("handlers.py")


@Pre
def uses_siblings(request: Request) -> None:
    request.headers["X-Greeting"] = greet()


@Pre
def imports_late(request: Request) -> None:
    import late
    from package.deep import other_leaf

    request.headers["X-Late"] = f"{late.TEXT} {other_leaf.TEXT}"
