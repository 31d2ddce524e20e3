"""Finds secrets in text by the names that stand before them, and by their own form.

A name and its value are told in every form that programs print them: headers, JSON (also within JSON), `repr`
of dicts and pairs, `name=value`, forms, queries (also percent-encoded), flags, XML, protobuf's text. The time
grows with the text's length and no faster, whatever is in it.
"""

from __future__ import annotations

import re

from coprocess.process.secret_names import (
    Sensitivity,
    counts,
    is_about_no_value,
    is_plausible,
    is_secret_parameter,
    judge,
)

REDACTED = "[redacted]"

#: What encodes a mark of a URL within another URL, perhaps twice: `%3D`, `%253D`.
_ENCODED = r"%(?:25){0,3}"
# A name, what stands before it, and the mark after it: `Authorization: `, `"password": "`, `secret='`,
# `('Cookie', '`, `?token=`, `%3Ftoken%3D`, `--password `, `<password>`.
_NAMED = re.compile(
    rf"""
    (?: (?P<parameter> {_ENCODED}(?:3[Ff]|26) | [?&] ) | (?P<flag> (?<![\w-])--? ) | (?P<tag> < )
      | {_ENCODED}[0-9A-Fa-f]{{2}} | \\[nrt] | (?<![\w.%-]) )
    (?P<name> (?(tag) \w[\w.:-]*+ | \w[\w.-]*+ ) )
    (?P<mark>
        (?:{_ENCODED}22)?{_ENCODED}3[DdAa](?:{_ENCODED}22)?
        | \\*+["']?(?:\[\d{{0,6}}\])?\]?[ \t]*+ (?: [:=]{{1,2}}>?+ | ,(?=[ \t]*+\[?b?\\*+["']) ) [ \t]*+
        | (?(flag) [ \t]++(?=[^\s-]) | (?!) )
        | (?(tag) (?:[ \t][^<>\n]{{0,200}})?>(?=[^<\s]) | (?!) )
    )
    """,
    re.VERBOSE | re.ASCII,
)
# Text form of protobuf (key: "Authorization" value: "x"), and lists of pairs as JSON.
_PAIRED = re.compile(
    r"""\b(?:key|name)\\*+["']?\s*+[:=]\s*+(?P<quote>\\*+["'])(?P<name>[\w.-]++)(?P=quote),?\s*+"""
    r"""\\*+["']?values?\\*+["']?\s*+[:=]\s*+""",
    re.ASCII | re.IGNORECASE,
)
_OPENING = re.compile(r"[\[(]?(?:b?\\*[\"'])?")
_MARK_AFTER = re.compile(r"[ \t]*+[:=]")
_QUOTE = re.compile(r"b?(\\*+)([\"'])")
_CONTAINER_PARTS = re.compile(
    r"""\\*+"(?:[^"\\\n]|\\.)*+(?:"|$|(?=\n))|\\*+'(?:[^'\\\n]|\\.)*+(?:'|$|(?=\n))|[\[({]|[\])}]"""
)
_PARAMETER_VALUE = re.compile(r"[^\s&\"'<>#]*")
_ENCODED_VALUE = re.compile(rf"(?:(?!{_ENCODED}26)[^\s&\"'<>#])*")
#: Up to what begins another field: `password=a,b, user=c`.
_WORD_VALUE = re.compile(r"(?:(?![,;][ \t]*+[\w.\"'-]++[ \t]*+[:=])[^\s&\"'<>])*", re.ASCII)
_LINE_END = re.compile(r"[\r\n]")
_ELEMENT_VALUE = re.compile(r"[^<\n]*")
#: Before a secret: `token: Bearer abc`.
_SCHEME = re.compile(
    r"(?:bearer|basic|digest|token|apikey|hmac|negotiate|ntlm|signature|hawk|oauth|dpop|aws4-[\w-]+)[ \t]",
    re.IGNORECASE,
)
#: What is no secret, whatever its name: nothing, a switch, a type in source code.
_NO_SECRET = re.compile(
    r"(?:None|none|null|nil|True|true|False|false|str|bytes|int|bool|float|dict|list|\.\.\.|…)?[\])},.;:]*"
)
_END_MARKS = ")]},.;:"
#: What may be a value that a machine has made, how far that is looked at, and what comes after it.
_RUN = re.compile(r"[A-Za-z0-9_~+/=-]+")
_WINDOW = 200
_AFTER_VALUE = ("", *" \t\r\n\"'\\&,;)]}<>|")
_LINE_NAMES = ("authorization", "cookie", "cookies")

_FORMS = (
    # What services that many use give out, by how it begins.
    re.compile(
        r"((?<![A-Za-z0-9]))(?:gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{15,}|xox[a-z]-[\w-]{10,}"
        r"|[rs]k_(?:live|test)_\w{10,}|sk-[\w-]{20,}|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{30,}|ya29\.[\w-]{20,}"
        r"|hv[sb]\.[\w-]{20,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|SG\.[\w-]{15,}\.[\w-]{15,})",
        re.ASCII,
    ),
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----)(?:(?!-----END )[^\x00])*"),
    # JSON Web Tokens, also those that are encrypted, or cut.
    re.compile(
        r"((?:(?<![\w-])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt])))eyJ[\w-]{6,}+(?:\.[\w-]*+){1,4}", re.ASCII
    ),
    # Credentials on their own; what no sentence has in it tells them from a sentence.
    re.compile(
        r"((?i:\b(?:bearer|dpop|negotiate|ntlm))\s+)"
        r"(?=[\w.~+/=-]*(?:\d|[._~]\w|[a-z][A-Z]|=(?!\w))|[A-Za-z]{20})[\w.~+/=-]{6,}",
        re.ASCII,
    ),
    re.compile(r"(\b[Bb]asic\s+)(?=[a-z]*[A-Z0-9+/=])[A-Za-z0-9+/]{6,}=*"),
    re.compile(
        r"(\b(?:[Dd]igest|Hawk|MAC|OAuth|Signature|AWS4-[\w-]{1,40})\s++)"
        r"(?:[\w-]++=(?:\"[^\"\n]*+\"|[^\s,\"]++)\s*+,?\s*+){2,}",
        re.ASCII,
    ),
)
# Credentials in a URL.
_USERINFO = (
    re.compile(r"(://)[^\s/?#\"'@]*(?:@[^\s/?#\"'@]*)*(?=@)"),
    # A password may have a slash in it; a port is no password.
    re.compile(
        r"(://)[^\s/?#\"'@:\[\]]{0,64}:(?!\d{1,5}(?:[/?#,;:)\]}\s\"'<>]|$))[^\s@\"']{0,256}(?=@)", re.ASCII
    ),
)
_MARKS = re.compile(r"[:=,>%]|--")


def redact_named(text: str) -> str:
    """`text` without values whose names name a secret."""
    return _Scan(text).result() if _MARKS.search(text) else text


def redact_formed(text: str) -> str:
    """`text` without what has the form of a secret: tokens, private keys, credentials in URLs."""
    for pattern in (*_FORMS, *(_USERINFO if "@" in text else ())):
        text = pattern.sub(rf"\g<1>{REDACTED}", text)
    return text


def _is_name(value: str) -> bool:
    return re.fullmatch("[A-Za-z_-]+", value) is not None and judge(value) is Sensitivity.SECRET


class _Scan:
    """One way through a text, from its start to its end: what was looked at is not looked at again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pieces: list[str] = []
        self._copied = 0
        #: From here on no bracket is closed: nobody looks for its end twice.
        self._unclosed_from = len(text) + 1

    def result(self) -> str:
        for pattern in (_PAIRED, _NAMED) if "value" in self._text else (_NAMED,):
            self._pieces, self._copied, at = [], 0, 0
            while (found := pattern.search(self._text, at)) is not None:
                at = max(self._take(found), found.end("name"))
            self._pieces.append(self._text[self._copied :])
            self._text = "".join(self._pieces)
            self._unclosed_from = len(self._text) + 1
        return self._text

    def _take(self, found: re.Match[str]) -> int:
        """Leave out the value after `found`, where it is a secret; where to go on."""
        name, start = found["name"], found.end()
        groups = found.groupdict()
        mark = groups.get("mark") or ":"
        sensitivity = judge(name)
        in_query = is_secret_parameter(name)
        if sensitivity is Sensitivity.HARMLESS and not in_query:
            return found.end("name")
        if self._text.startswith(REDACTED, start):
            return start + len(REDACTED)
        if mark.startswith("%"):
            return self._replace(start, self._word_end(_ENCODED_VALUE, start)) if in_query else start
        if "=" in mark and in_query and (end := self._parameter_end(found, start)) > start:
            return self._replace(start, end)
        if sensitivity is Sensitivity.SECRET and self._is_about_none(found.start("name")):
            sensitivity = Sensitivity.DOUBTFUL
        if sensitivity is not Sensitivity.SECRET:
            return self._take_doubtful(start) if sensitivity is Sensitivity.DOUBTFUL else start
        if (quote := _QUOTE.match(self._text, start)) is not None:
            end, value = self._quoted(quote)
            if mark.lstrip("\\\"'] \t").startswith(",") and (
                _is_name(value) or _MARK_AFTER.match(self._text, end)
            ):
                return start  # A list of names, or what comes next has a name of its own.
        elif self._text[start : start + 1] in ("[", "(", "{"):
            return self._replace(start, self._container_end(start))
        else:
            end = self._plain_end(found, mark)
            value = self._text[start:end]
        if _NO_SECRET.fullmatch(value) or (counts(name) and value.isdecimal()):
            return start
        return self._replace(start, end)

    def _is_about_none(self, at: int) -> bool:
        before = self._text[max(0, at - 20) : at]
        return before.endswith(" ") and is_about_no_value(before[:-1].rpartition(" ")[2])

    def _take_doubtful(self, start: int) -> int:
        opening = _OPENING.match(self._text, start)
        begin = opening.end() if opening else start
        # What is left in the text is looked at again: so no further than that.
        run = _RUN.match(self._text, begin, begin + _WINDOW)
        if run is None or not is_plausible(run[0]):
            # Its value may be the name of another: `key: password=x`. Of brackets, the names within tell.
            return start
        if len(run[0]) == _WINDOW:
            return self._replace(begin, self._word_end(_RUN, begin))
        return (
            self._replace(begin, run.end())
            if self._text[run.end() : run.end() + 1] in _AFTER_VALUE
            else start
        )

    def _parameter_end(self, found: re.Match[str], start: int) -> int:
        """The end of the value, where this is a parameter of a query or a form, else `start`."""
        if found.groupdict().get("parameter"):
            return self._word_end(_PARAMETER_VALUE, start)
        value = _PARAMETER_VALUE.match(self._text, start, start + _WINDOW)
        # The first of a form is followed by another.
        return value.end() if value and self._text[value.end() : value.end() + 1] == "&" else start

    def _plain_end(self, found: re.Match[str], mark: str) -> int:
        """The end of a value without quotes."""
        name, start = found["name"], found.end()
        if mark.endswith(">") and found.groupdict().get("tag"):
            return self._word_end(_ELEMENT_VALUE, start)
        # The value of a header may have spaces and commas in it, and so may a password on a line of its own.
        is_line = name.lower().endswith(_LINE_NAMES) or (
            ":" in mark and ("-" in name or self._begins_line(found.start()))
        )
        is_line = is_line and '"' not in mark and "'" not in mark
        if is_line or _SCHEME.match(self._text, start):
            end = self._line_end(start)
            # Of an argument: curl -H 'Authorization: a b'.
            before = self._text[found.start() - 1 : found.start()]
            closed = self._text.find(before, start, end) if before in ("'", '"') else -1
            return end if closed < 0 else closed
        return self._word_end(_WORD_VALUE, start)

    def _begins_line(self, at: int) -> bool:
        """Whether nothing stands before it, in the line or in quotes."""
        before = self._text[max(0, at - 80) : at]
        if before.endswith(("'", '"')):
            return True
        line = before.rpartition("\n")[2]
        return not line.strip() and (len(line) < len(before) or at <= 80)

    def _line_end(self, start: int) -> int:
        found = _LINE_END.search(self._text, start)
        return found.start() if found else len(self._text)

    def _word_end(self, pattern: re.Pattern[str], start: int) -> int:
        found = pattern.match(self._text, start)
        end = found.end() if found else start
        while end > start and self._text[end - 1] in _END_MARKS:
            end -= 1
        return end

    def _quoted(self, quote: re.Match[str]) -> tuple[int, str]:
        """The end of what begins with `quote`, and what is in it. Without its end, where a line was cut."""
        text, mark = self._text, quote[1] + quote[2]
        start = at = quote.end()
        line_end = self._line_end(start)
        while (end := text.find(mark, at, line_end)) >= 0:
            before = end
            while before > at and text[before - 1] == "\\":
                before -= 1
            # A quote within is escaped; within what is escaped itself, by more backslashes than the first.
            if (end - before) % 2 == 0 if not quote[1] else end == before:
                return end + len(mark), text[start:end]
            at = end + len(mark)
        return line_end, text[start:line_end]

    def _container_end(self, start: int) -> int:
        if start < self._unclosed_from:
            depth = 0
            for part in _CONTAINER_PARTS.finditer(self._text, start):
                depth += (part[0] in ("[", "(", "{")) - (part[0] in ("]", ")", "}"))
                if depth == 0:
                    return part.end()
            self._unclosed_from = start
        return self._line_end(start)

    def _replace(self, start: int, end: int) -> int:
        if end <= start:
            return start
        self._pieces += (self._text[self._copied : start], REDACTED)
        self._copied = end
        return end
