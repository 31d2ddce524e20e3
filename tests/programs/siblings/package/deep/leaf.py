from package.submodule import NAME
