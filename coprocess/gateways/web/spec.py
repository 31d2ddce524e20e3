"""The `spec` that handlers around a web app get: what the Middleware was given."""

from coprocess.runtime.held_spec import HeldSpec as WebSpec

__all__ = ["WebSpec"]
