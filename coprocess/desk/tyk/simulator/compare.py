"""Differences between what a recording holds and what the simulator made of it, in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from coprocess.desk.trees import ABSENT, Difference, TreePath, differences, leaf
from coprocess.gateways.tyk import wire

#: What is counted from the gateway's clock, of which a recording tells the second only.
_CLOCK_FIELDS = (("session", "quota_renews"),)
_CLOCK_SLACK = 2


def tree(message: Message) -> dict[str, Any]:
    """A message as plain values; a sub-message that is present and empty is an empty dict."""
    plain: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type and field.message_type.GetOptions().map_entry:
            is_message = field.message_type.fields_by_name["value"].message_type
            plain[field.name] = {key: tree(value[key]) if is_message else value[key] for key in value}
        elif field.message_type and isinstance(value, Message):
            plain[field.name] = tree(value)
        elif field.message_type:
            plain[field.name] = [tree(item) for item in value]
        else:
            plain[field.name] = value if isinstance(value, (str, bytes, int, float)) else list(value)
    return plain


def object_differences(expected: wire.Object, got: wire.Object) -> list[str]:
    """By field; maps and `multivalue_headers` have no order."""
    found = differing(_unordered(expected), _unordered(got))
    if not found and _comparable(expected) != _comparable(got):
        found.append("holds fields that this protocol version does not know")
    return found


def _unordered(message: wire.Object) -> dict[str, Any]:
    plain = tree(message)
    headers = plain.get("response", {}).get("multivalue_headers")
    if headers:
        headers.sort(key=lambda header: header.get("key", ""))
    return plain


def _comparable(message: wire.Object) -> bytes:
    """All bytes, unknown fields too, but for what may differ."""
    twin = wire.Object()
    twin.CopyFrom(message)
    if twin.HasField("session"):
        twin.session.ClearField("quota_renews")
    if twin.HasField("response"):
        headers = sorted(twin.response.multivalue_headers, key=lambda header: header.key)
        twin.response.ClearField("multivalue_headers")
        twin.response.multivalue_headers.extend(headers)
    return twin.SerializeToString(deterministic=True)


def differing(expected: Any, got: Any) -> list[str]:
    """One line for each place where two plain values are not the same."""
    return [str(difference) for difference in differences(expected, got, _with_slack)]


def _with_slack(path: TreePath, expected: Any, got: Any) -> Iterable[Difference] | None:
    is_near = path in _CLOCK_FIELDS and ABSENT not in (expected, got) and near(expected, got)
    return () if is_near else None


def near(expected: int, got: int) -> bool:
    """Whether two times that are not zero are the same but for the clock's fraction."""
    return expected == got or (expected > 0 < got and abs(expected - got) <= _CLOCK_SLACK)


def header_differences(
    expected: list[tuple[str, str]], got: list[tuple[str, str]], *, ignore: tuple[str, ...] = ()
) -> list[str]:
    """By name, in the spelling that was written.

    Recordings hold sorted pairs: the order of a name's values is not in them.
    """
    found = differences(_by_name(expected, ignore), _by_name(got, ignore), _of_headers)
    return [f"header {difference}" for difference in found]


def _of_headers(path: TreePath, expected: Any, got: Any) -> Iterable[Difference] | None:
    if not path:
        return None
    name, one, other = str(path[0]), *([] if values is ABSENT else values for values in (expected, got))
    return () if _near_reset(name, one, other) else leaf(path, one, other)


def _near_reset(name: str, expected: list[str], got: list[str]) -> bool:
    if name != "X-Ratelimit-Reset" or len(expected) != 1 or len(got) != 1:
        return False
    return expected[0].isdecimal() and got[0].isdecimal() and near(int(expected[0]), int(got[0]))


def _by_name(pairs: list[tuple[str, str]], ignore: tuple[str, ...]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in ignore:
            names.setdefault(name, []).append(value)
    return {name: sorted(values) for name, values in names.items()}
