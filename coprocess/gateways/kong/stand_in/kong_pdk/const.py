"""The version of kong-pdk that this stands in for."""

__version__ = 0.36
PY3K = True
