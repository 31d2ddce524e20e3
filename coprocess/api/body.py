"""What a request's and a response's body have in common: bytes, text and JSON, encoded or not."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

from coprocess.api import content_coding
from coprocess.api.body_stream import BodyStream
from coprocess.api.http import Headers
from coprocess.errors import BadBody
from coprocess.expected import expect_text

#: Headers that tell of the bytes of a body, and are wrong once they are replaced.
OF_THE_BYTES = frozenset(
    {"Content-Encoding", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest", "Etag", "Accept-Ranges"}
)


class Body:
    """`raw_body` is the truth, the rest reads it."""

    __slots__ = ()

    #: In errors.
    _owner = "message"

    @property
    def headers(self) -> Headers:
        raise NotImplementedError

    @property
    def raw_body(self) -> bytes:
        """The bytes as they travel: with the content coding that the other side has chosen, if any."""
        raise NotImplementedError

    @property
    def body(self) -> bytes:
        """The bytes, without their content coding (gzip, deflate, br, zstd); empty where there is no body.

        Assigning replaces them, a str is encoded as UTF-8. A Content-Encoding that came goes then, and so do
        ETag, digests and whatever else tells of the old bytes; a header that the handler has set stays.
        Raises BadBody where the bytes cannot be decoded, or inflate to more than 16 MiB.
        """
        raw_body = self.raw_body
        if not raw_body or not (coding := self._coding_of_body()):
            return raw_body
        return content_coding.decode(raw_body, coding, f"the {self._owner}'s body")

    @body.setter
    def body(self, body: bytes | str) -> None:
        self._replace_body(body_bytes(body, f"{self._owner}.set_json(…)"))
        if isinstance(body, str):
            self._say_utf8()

    @property
    def text(self) -> str:
        """The body as text, in the charset that its Content-Type names, else UTF-8.

        Assigning encodes as UTF-8, and says so where the Content-Type named another charset. Raises BadBody
        where the bytes are no such text; it is a UnicodeDecodeError too.
        """
        return _decode_text(self.body, charset_of(self.headers.get("Content-Type", "")), self._owner)

    @text.setter
    def text(self, text: str) -> None:
        self.body = expect_text(f"{self._owner}.text", text)

    def json(self) -> Any:
        """The body parsed as JSON. Raises BadBody where it is none; it is a json.JSONDecodeError too."""
        body: bytes | str = self.body
        charset = charset_of(self.headers.get("Content-Type", ""))
        if not charset.startswith("utf"):
            body = _decode_text(self.body, charset, self._owner)
        try:
            return json.loads(body)
        except RecursionError:
            raise BadJson(f"the {self._owner}'s body is not JSON that can be read: it is too deep") from None
        except ValueError as error:
            raise BadJson(f"the {self._owner}'s body is not JSON: {error}", error) from None

    def set_json(self, value: Any) -> None:
        """Make `value`, as JSON, the body. The Content-Type becomes `application/json`, unless it is JSON."""
        body = dump_json(value)
        media_type = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self.body = body
        if not media_type.endswith(("/json", "+json")):
            self.headers["Content-Type"] = "application/json"

    def stream(self, *, replace: bool = False) -> BodyStream:
        """The bytes in pieces, as they travel, while they pass: no whole body is held.

        For handlers of Post and Response, where the gateway can; they run last. With the first piece that is
        asked for, headers and status are sent: what is edited later fails the call. With `replace`, what is
        written is the body, and nothing passes by itself. Raises RuntimeError where the body comes whole.
        """
        if (stream := self._stream(replace)) is not None:
            return stream
        raise RuntimeError(
            f"the {self._owner}'s body comes whole here. Expected: {self._owner}.body, or where the gateway "
            f"passes pieces, a handler that calls {self._owner}.stream() itself"
        )

    def _stream(self, replace: bool) -> BodyStream | None:
        """None where the body comes whole."""
        return None

    def _coding_of_body(self) -> str:
        """The Content-Encoding of `raw_body`; empty where it has none."""
        raise NotImplementedError

    def _replace_body(self, body: bytes) -> None:
        """Make `body` the bytes, and drop the headers that came and told of others."""
        raise NotImplementedError

    def _say_utf8(self) -> None:
        content_type = self.headers.get("Content-Type", "")
        if content_type and charset_of(content_type) != "utf-8":
            self.headers["Content-Type"] = _CHARSET.sub(r"\1utf-8", content_type)


class BadText(BadBody, UnicodeDecodeError):
    """The body is no text in its charset."""

    def __init__(self, text: str, error: UnicodeDecodeError) -> None:
        UnicodeDecodeError.__init__(self, *error.args)
        self.text = text

    def __str__(self) -> str:
        return self.text


class BadJson(BadBody, json.JSONDecodeError):
    """The body is no JSON."""

    def __init__(self, text: str, error: ValueError | None = None) -> None:
        doc, pos = (error.doc, error.pos) if isinstance(error, json.JSONDecodeError) else ("", 0)
        json.JSONDecodeError.__init__(self, text, doc, pos)
        self.args = (text,)


_CHARSET = re.compile(r"""(;\s*charset\s*=\s*)("[^"]*"|'[^']*'|[^\s;]*)""", re.IGNORECASE)

# Codecs of Python's own that are no charsets; some take time that grows with the square of the length.
_NO_CHARSETS = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"})


def charset_of(content_type: str) -> str:
    """The charset that a Content-Type names, in Python's spelling where Python knows it; else `utf-8`."""
    found = _CHARSET.search(content_type)
    name = found[2].strip("\"'").lower() if found else ""
    if name in ("", "utf-8", "utf8"):
        return "utf-8"
    try:
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        return name


def _decode_text(body: bytes, charset: str, owner: str) -> str:
    try:
        if charset.replace("_", "-") in _NO_CHARSETS:
            raise LookupError
        return body.decode(charset)
    except UnicodeDecodeError as error:
        raise BadText(f"the {owner}'s body is not {charset} text: {error.reason}", error) from None
    except (LookupError, ValueError):
        text = f"the {owner}'s body is text in an unknown charset, {charset!r}"
        raise BadBody(text, http_status=415) from None


def body_bytes(body: object, json_instead: str = "json=…") -> bytes:
    """`body` as bytes. Raises TypeError where it is neither str nor bytes."""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    advice = f": write {json_instead}" if isinstance(body, (dict, list, tuple)) else ""
    raise TypeError(f"a body is bytes or str, not {type(body).__name__}{advice}")


def dump_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
