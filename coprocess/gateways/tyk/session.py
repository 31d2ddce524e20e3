"""`Session`, `Spec` and metadata over Tyk's messages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, MutableMapping, MutableSequence
from typing import TYPE_CHECKING, Any, ClassVar

from coprocess.api.messages import Session, Spec
from coprocess.api.texts import TextList as TextList
from coprocess.api.texts import TextMap as TextMap
from coprocess.api.texts import items_of, texts
from coprocess.errors import BadMessage
from coprocess.expected import expect_int, expect_rate, wrong_type
from coprocess.gateways.tyk.wire import SessionState

if TYPE_CHECKING:
    from coprocess.gateways.tyk.wire import AccessDefinition, BasicAuthData, JWTData, Monitor, Object


class TykSession(Session):
    """A view of the Object's session: absent until something is set."""

    gateway: ClassVar[str] = "tyk"

    if not TYPE_CHECKING:  # As for Session.
        __slots__ = ("_message", "_session")

    last_check: int
    allowance: float
    access_rights: MutableMapping[str, AccessDefinition]
    oauth_client_id: str
    oauth_keys: MutableMapping[str, str]
    basic_auth_data: BasicAuthData
    jwt_data: JWTData
    hmac_enabled: bool
    hmac_secret: str
    apply_policy_id: str
    data_expires: int
    monitor: Monitor
    enable_detailed_recording: bool
    last_updated: str
    #: Unix time, seconds, until which the gateway's ID extractor uses this session without asking again.
    id_extractor_deadline: int
    session_lifetime: int
    apply_policies: MutableSequence[str]
    certificate: str
    max_query_depth: int
    key_id: str
    post_expiry_action: str
    post_expiry_grace_period: int

    def __init__(self, message: Object) -> None:
        self._message = message
        self._session = message.session

    def __bool__(self) -> bool:
        return self._message.HasField("session")

    @property
    def object(self) -> SessionState:
        """Tyk only: the protocol's own message."""
        return self._session

    def allow(
        self,
        token: str,
        *,
        rate: float | None = None,
        per: float | None = None,
        quota_max: int | None = None,
        quota_renewal_rate_s: int | None = None,
        expires_at: int | None = None,
        cache_for_s: int | None = None,
        alias: str | None = None,
        tags: Iterable[str] = (),
        policies: Iterable[str] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(token, str) or not token:
            raise ValueError(f"a token is text, not empty: {token!r}")
        session = self._session
        session.SetInParent()
        if rate is not None:
            # The gateway takes a negative one for no limit: who computes it means none of that.
            session.rate = expect_rate("rate", rate)
            session.per = 1.0 if per is None else expect_rate("per", per)
        elif per is not None:
            raise ValueError("per without rate limits nothing")
        if quota_max is not None:
            session.quota_max = quota_max
            session.quota_remaining = quota_max
        if quota_renewal_rate_s is not None:
            session.quota_renewal_rate = expect_int("quota_renewal_rate_s", quota_renewal_rate_s)
        if expires_at is not None:
            session.expires = expect_int("expires_at", expires_at)
        if cache_for_s is not None:
            now = int(time.time())
            session.id_extractor_deadline = now + expect_int("cache_for_s", cache_for_s)
            session.last_updated = str(now)
        if alias is not None:
            session.alias = alias
        session.tags.extend(texts("tags", tags))
        session.apply_policies.extend(texts("policies", policies))
        if metadata is not None:
            TextMap(session.metadata, "metadata").update(metadata)
        self._message.metadata["token"] = token

    def __repr__(self) -> str:
        # Secrets are among the fields: none is shown.
        return f"<Session of {self._session.alias or 'no alias'}>" if self else "<Session: none>"


class _Field:
    """The fields of SessionState, as attributes of the view."""

    def __init__(self, name: str) -> None:
        self._name = name
        #: In errors.
        self._label = f"session.{name}"

    def __get__(self, view: TykSession | None, owner: type) -> Any:
        if view is None:
            return self
        value = getattr(view._session, self._name)
        if self._name in _TEXT_MAPS:
            return TextMap(value, self._label)
        return TextList(value, self._label) if self._name in _TEXT_LISTS else value

    def __set__(self, view: TykSession, value: Any) -> None:
        field = getattr(view._session, self._name)
        if isinstance(field, (str, bytes, bool, int, float)):
            setattr(view._session, self._name, value)
        elif hasattr(field, "MergeFrom") and hasattr(field, "extend"):
            items = texts(self._label, value) if self._name in _TEXT_LISTS else items_of(value)
            del field[:]
            field.extend(items)
        elif isinstance(field, MutableMapping):
            entries = dict(value)
            field.clear()
            for key, entry in entries.items():
                if self._name in _TEXT_MAPS:
                    TextMap(field, self._label)[key] = entry
                else:
                    _copy(f"{self._label}[{key!r}]", entry, field[key])
        else:
            _copy(self._label, value, field)


def _copy(what: str, value: Any, field: Any) -> None:
    try:
        field.CopyFrom(value)
    except TypeError:
        raise wrong_type(what, f"a message of type {type(field).__name__}", value) from None


_TEXT_MAPS = frozenset({"metadata", "oauth_keys"})
_TEXT_LISTS = frozenset({"tags", "apply_policies"})

# The names, types and documentation are the base class's; a test compares them with the protocol.
for _field in SessionState.DESCRIPTOR.fields:
    setattr(TykSession, _field.name, _Field(_field.name))


class TykSpec(Spec):
    """The Object's spec, or an event's."""

    gateway: ClassVar[str] = "tyk"

    __slots__ = ("_spec",)

    def __init__(self, spec: Mapping[str, str]) -> None:
        self._spec = spec

    @property
    def api_id(self) -> str:
        return self._spec.get("APIID", "")

    @property
    def org_id(self) -> str:
        return self._spec.get("OrgID", "")

    @property
    def bundle_hash(self) -> str:
        """Tyk only: md5, as hex, of the name of the bundle that the API definition names."""
        return self._spec.get("bundle_hash", "")

    @property
    def config(self) -> dict[str, Any]:
        text = self._spec.get("config_data", "")
        if not text:
            return {}
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadMessage(f"spec.config_data of API {self.api_id!r} is not JSON: {error}") from None
        if not isinstance(config, dict):
            raise BadMessage(f"spec.config_data of API {self.api_id!r} is not a JSON object")
        return config

    def __repr__(self) -> str:
        return f"<Spec of API {self.api_id!r}>"
