"""What a handler changed in an Object: as lines of a diff, and by field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from coprocess.desk.trees import ABSENT, Difference, TreePath, differences, leaf
from coprocess.desk.tyk import read_back
from coprocess.desk.tyk.simulator.compare import tree
from coprocess.gateways.tyk.wire import Object


@dataclass(frozen=True, slots=True)
class Edit:
    """One value that is not as it was. `before` or `after` is ABSENT where there was none, or is none."""

    path: tuple[str, ...]
    before: Any
    after: Any

    @property
    def field(self) -> str:
        """`request.set_headers`, `session.rate`; `metadata` and `spec` are fields themselves."""
        return ".".join(self.path[:1] if self.path[0] in _MAPS else self.path[:2])

    def lines(self) -> Iterator[str]:
        path = ".".join(self.path)
        if self.before is not ABSENT:
            yield f"- {path}: {shown(self.before)}"
        if self.after is not ABSENT:
            yield f"+ {path}: {shown(self.after)}"


_MAPS = ("metadata", "spec")


def completed(sent: Object, reply: Object) -> Object:
    """The reply, with what it leaves out because the gateway does not read it."""
    full = Object()
    full.CopyFrom(reply)
    if reply.HasField("request"):
        _fill(full.request, sent.request, read_back.IN_REQUEST)
    if reply.HasField("response"):
        _fill(full.response, sent.response, read_back.IN_RESPONSE)
    _fill(full, sent, frozenset())
    return full


def _fill(into: Message, source: Message, read: frozenset[str]) -> None:
    rest = type(source)()
    rest.CopyFrom(source)
    # Descriptor names, which stubs know one by one.
    clear: Callable[[Any], None] = rest.ClearField
    for name in read | {field.name for field, _ in into.ListFields()}:
        clear(name)
    into.MergeFrom(rest)


def edits(sent: Object, after: Object) -> list[Edit]:
    """Every value that differs, by path. `after` is complete: see `completed`.

    `body` is told of only where it says something else than `raw_body`. A response's headers are one
    map here, a list where a name has several values.
    """
    before_tree, after_tree = _plain(sent, sent), _plain(after, sent)
    found = differences(before_tree, after_tree, _leaf_by_leaf)
    edited = [Edit(tuple(map(str, each.path)), each.before, each.after) for each in found]
    return sorted(edited, key=lambda edit: edit.path)


def by_field(found: list[Edit]) -> dict[str, Any]:
    """`{"request.set_headers": {"X": "1"}, "request.url": "/b"}`; None is what was taken away."""
    fields: dict[str, Any] = {}
    for edit in found:
        depth = 1 if edit.path[0] in _MAPS else 2
        after = None if edit.after is ABSENT else edit.after
        *parents, leaf = (edit.field, *edit.path[depth:])
        target = fields
        for name in parents:
            target = target.setdefault(name, {})
        target[leaf] = after
    return fields


def changes(sent: Object, reply: Object) -> list[str]:
    """What differs in the reply, as the lines of a diff. What a reply leaves out is not a change."""
    lines = [line for edit in edits(sent, completed(sent, reply)) for line in edit.lines()]
    return lines or ["nothing changed"]


def shown(value: Any) -> str:
    """A value on one line: text as it is where that is plain."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes that are not UTF-8: {value!r}"
    if isinstance(value, str) and value and value.isprintable() and value == value.strip():
        return value
    return json.dumps(value, ensure_ascii=False)


def _plain(message: Object, sent: Object) -> dict[str, Any]:
    content = tree(message)
    for part in ("request", "response"):
        if part not in content:
            continue
        fields = content[part]
        twin, original = getattr(message, part), getattr(sent, part)
        raw_body = _text(twin.raw_body)
        fields.pop("raw_body", None)
        if raw_body:
            fields["raw_body"] = raw_body
        if twin.body in (raw_body, original.body):
            fields.pop("body", None)
        else:
            fields["body"] = twin.body
    overrides = content.get("request", {}).get("return_overrides", {})
    if overrides.get("response_code") == -1:
        # What the gateway sends: no override.
        del overrides["response_code"]
    if "response" in content:
        _join_headers(content["response"])
    return content


def _join_headers(response: dict[str, Any]) -> None:
    values = {header["key"]: header.get("values", []) for header in response.pop("multivalue_headers", [])}
    joined = {
        name: all_values[0] if len(all_values) == 1 else all_values for name, all_values in values.items()
    }
    # Where the two forms disagree, the map's value is what was edited.
    apart = {
        name: value
        for name, value in response.get("headers", {}).items()
        if name not in values or value != (values[name] or [None])[0]
    }
    response["headers"] = joined | apart


def _text(body: bytes) -> str | bytes:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def _leaf_by_leaf(path: TreePath, before: Any, after: Any) -> Iterable[Difference] | None:
    """A map that is new or gone is told by what is in it, a list as a whole."""
    if isinstance(before, dict) or isinstance(after, dict):
        if isinstance(before, dict) and isinstance(after, dict):
            return None
        old = before if isinstance(before, dict) else {}
        new = after if isinstance(after, dict) else {}
        return differences(old, new, _leaf_by_leaf, path)
    return leaf(path, before, after)
