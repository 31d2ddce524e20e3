from ..submodule import NAME
