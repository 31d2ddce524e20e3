"""A web app, as the loader of handlers knows it."""

from coprocess.loading.home import Home

HOME = Home("web", calls_share_a_request=True)
