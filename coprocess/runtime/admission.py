"""What a session must be so that its request goes on, where the gateway does not look itself."""

from __future__ import annotations

from typing import NamedTuple

from coprocess.api.held_session import HeldSession
from coprocess.errors import Status
from coprocess.runtime.answers import Answer, error_answer, failure_answer


class Refusal(NamedTuple):
    """What the client gets, and the event that tells of it; empty: none does."""

    answer: Answer
    event: str = ""
    message: str = ""


def refusal_of_nobody() -> Refusal:
    """Where authentication named no caller."""
    return Refusal(error_answer(403, "Forbidden"), "AuthFailure", "Auth Failure")


def names_by_metadata_alone(session: HeldSession, token: str) -> bool:
    """Whether `token`, of the metadata, is all that a handler set: at Tyk, that admits nobody."""
    return bool(token) and not session.has_more_than_metadata


def refusal_of(session: HeldSession) -> Refusal | None:
    """Why that caller may not go on; None: it may, but for rate and quota."""
    if session.is_inactive:
        text = "Attempted access from inactive key."
        return Refusal(error_answer(403, "Key is inactive, please renew"), "KeyExpired", text)
    if session.is_expired:
        text = "Attempted access from expired key."
        return Refusal(error_answer(401, "Key has expired, please renew"), "KeyExpired", text)
    return None


def is_limited(session: HeldSession) -> bool:
    return session.rate > 0 or session.quota_max > 0


def refusal_by_limit(exceeded: str) -> Refusal | None:
    """`exceeded` is `rate` or `quota`; empty: neither. Anything else: nobody can tell."""
    if not exceeded:
        return None
    if exceeded == "rate":
        return Refusal(error_answer(429, "Rate Limit Exceeded"), "RatelimitExceeded", "Rate Limit Exceeded")
    if exceeded == "quota":
        return Refusal(error_answer(403, "Quota exceeded"), "QuotaExceeded", "Key Quota Limit Exceeded")
    return Refusal(failure_answer(Status.INTERNAL))
