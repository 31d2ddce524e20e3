"""Tyk, as the loader of handlers knows it."""

from coprocess.gateways.tyk.compat import ALIASES
from coprocess.loading.home import Home

HOME = Home("tyk", ALIASES)
