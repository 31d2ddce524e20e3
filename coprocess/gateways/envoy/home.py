"""Envoy, as the loader of handlers knows it."""

from coprocess.loading.home import Home

HOME = Home("envoy", streams_bodies=True)
