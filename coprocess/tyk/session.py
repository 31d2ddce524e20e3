"""`Session`, `Spec` and metadata over Tyk's messages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from coprocess.errors import BadMessage
from coprocess.messages import Session, Spec
from coprocess.tyk.wire import SessionState

if TYPE_CHECKING:
    from coprocess.tyk.wire import Object


class TykSession(Session):
    """A view of the Object's session: absent until something is set."""

    __slots__ = ("_message", "_session")

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
            session.rate = rate
            session.per = 1.0 if per is None else per
        elif per is not None:
            raise ValueError("per without rate limits nothing")
        if quota_max is not None:
            session.quota_max = quota_max
            session.quota_remaining = quota_max
        if quota_renewal_rate_s is not None:
            session.quota_renewal_rate = quota_renewal_rate_s
        if expires_at is not None:
            session.expires = expires_at
        if cache_for_s is not None:
            now = int(time.time())
            session.id_extractor_deadline = now + cache_for_s
            session.last_updated = str(now)
        if alias is not None:
            session.alias = alias
        session.tags.extend(_items(tags))
        session.apply_policies.extend(_items(policies))
        if metadata is not None:
            session.metadata.update(metadata)
        self._message.metadata["token"] = token

    def __repr__(self) -> str:
        # Secrets are among the fields: none is shown.
        return f"<Session of {self._session.alias or 'no alias'}>" if self else "<Session: none>"


def _items(values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str):
        raise TypeError(f"expected several values, not the text {values!r}")
    return list(values)


class _Field:
    """The fields of SessionState, as attributes of the view."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, view: TykSession | None, owner: type) -> Any:
        if view is None:
            return self
        value = getattr(view._session, self._name)
        return TextMap(value) if self._name in _TEXT_MAPS else value

    def __set__(self, view: TykSession, value: Any) -> None:
        field = getattr(view._session, self._name)
        if isinstance(field, (str, bytes, bool, int, float)):
            setattr(view._session, self._name, value)
        elif hasattr(field, "MergeFrom") and hasattr(field, "extend"):
            items = _items(value)
            del field[:]
            field.extend(items)
        elif isinstance(field, MutableMapping):
            entries = dict(value)
            field.clear()
            for key, entry in entries.items():
                if self._name in _TEXT_MAPS:
                    field[key] = entry
                else:
                    field[key].CopyFrom(entry)
        else:
            field.CopyFrom(value)


_TEXT_MAPS = frozenset({"metadata", "oauth_keys"})

# The names, types and documentation are the base class's; a test compares them with the protocol.
for _field in SessionState.DESCRIPTOR.fields:
    setattr(TykSession, _field.name, _Field(_field.name))


class TextMap(MutableMapping[str, str]):
    """A protobuf map as a dict: asking for a key that is not there is a KeyError and adds nothing."""

    __slots__ = ("_map",)

    def __init__(self, protobuf_map: MutableMapping[str, str]) -> None:
        self._map = protobuf_map

    def __getitem__(self, key: str) -> str:
        if key not in self._map:
            raise KeyError(key)
        return self._map[key]

    def __setitem__(self, key: str, value: str) -> None:
        self._map[key] = value

    def __delitem__(self, key: str) -> None:
        if key not in self._map:
            raise KeyError(key)
        del self._map[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._map))

    def __len__(self) -> int:
        return len(self._map)

    def __repr__(self) -> str:
        return f"TextMap({sorted(self._map)})"


class TykSpec(Spec):
    """The Object's spec, or an event's."""

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
