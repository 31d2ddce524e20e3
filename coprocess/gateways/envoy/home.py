"""Envoy, as the loader of handlers knows it."""

from coprocess.loading.home import Home

HOME = Home("envoy", calls_share_a_request=True, streams_bodies=True)
