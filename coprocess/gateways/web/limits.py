"""What `session.allow` promised of rate and quota, kept on the store."""

from coprocess.runtime.session_limits import Limiter

__all__ = ["Limiter"]
