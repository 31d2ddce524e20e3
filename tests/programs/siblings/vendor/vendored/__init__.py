from vendored.inner import helper

VERSION = "vendored 1"


def version_of_helper():
    return helper()
