"""ID extractors: who calls, found by the gateway itself before it asks CustomKeyCheck."""

from __future__ import annotations

import hashlib
import re
from xml.etree import ElementTree

from coprocess.desk.tyk.simulator.definition import IdExtractorDefinition
from coprocess.desk.tyk.simulator.outcome import Failed
from coprocess.desk.tyk.simulator.request import GatewayRequest
from coprocess.desk.tyk.simulator.url import Values, parse_query

_FORM_METHODS = ("POST", "PUT", "PATCH")
_XPATH_END = re.compile(r"(?P<path>.*?)/(?:(?P<text>text\(\))|@(?P<attribute>[\w:.\-]+))\Z")


class _NotFound(Exception):
    """No value: the gateway tells its client nothing more exact."""


def session_id(extractor: IdExtractorDefinition, request: GatewayRequest, org_id: str) -> str:
    """The key of the caller's session: the organisation, then the MD5 of the extracted value.

    Raises Failed, 400, where there is no value (recording `id_header_no_value`). The source `body`
    with `value` extracts the empty string: all callers share one session (GATEWAY.md).

    Regular expressions are Go's RE2 there and Python's `re` here. They agree on what both take; RE2
    refuses backreferences and lookaround, `re` does not know `\\z`, `\\pL` and `(?U)`. An XPath may be
    an absolute path or `//` ones, with `*`, `[n]`, `[@a]`, `[@a='v']`, `[tag='text']`, ending in
    `text()` or `@a` if need be; axes, functions and relative paths are not supported. Multipart forms
    are not read.
    """
    try:
        value = _extract(extractor, request)
    except _NotFound as error:
        raise Failed("no-id", 400, "Authorization field missing") from error
    digest = hashlib.md5(value.encode("utf-8", "surrogateescape"), usedforsecurity=False)
    return org_id + digest.hexdigest()


def _extract(extractor: IdExtractorDefinition, request: GatewayRequest) -> str:
    if extractor.way == "value":
        return "" if extractor.source == "body" else _source(extractor, request)
    if extractor.way == "regex":
        return _by_regex(extractor, request)
    return _by_xpath(extractor.xpath, _source(extractor, request))


def _source(extractor: IdExtractorDefinition, request: GatewayRequest) -> str:
    if extractor.source == "body":
        return request.body.decode("utf-8", "surrogateescape")
    if extractor.source == "header":
        value = request.headers.get(extractor.header_name)
        if not value:
            raise _NotFound
        return value
    values = _form(request).get(extractor.param_name) if extractor.param_name else None
    if not values:
        raise _NotFound
    return "".join(values)


def _form(request: GatewayRequest) -> Values:
    """The body's parameters before the query's, as Go's `Request.Form`."""
    content_type = request.headers.get("Content-Type").partition(";")[0].strip().lower()
    form: Values = {}
    if request.method in _FORM_METHODS and content_type == "application/x-www-form-urlencoded":
        form = parse_query(request.body.decode("utf-8", "surrogateescape"))
    for name, values in request.url.values().items():
        form.setdefault(name, []).extend(values)
    return form


def _by_regex(extractor: IdExtractorDefinition, request: GatewayRequest) -> str:
    if not extractor.regex:
        raise _NotFound
    try:
        pattern = re.compile(extractor.regex)
    except re.error as error:
        raise _NotFound from error
    matches = [match.group() for match in pattern.finditer(_source(extractor, request))]
    if extractor.regex_match_index >= len(matches):
        raise _NotFound
    return matches[extractor.regex_match_index]


def _by_xpath(expression: str, document: str) -> str:
    if not expression.startswith("/"):
        raise _NotFound
    end = _XPATH_END.match(expression)
    path = (end["path"] or "/*") if end else expression
    root = ElementTree.Element("document")
    try:
        encoded = document.encode("utf-8", "surrogateescape")
        root.append(ElementTree.fromstring(encoded))  # noqa: S314  # a user's own request, on their machine
        found = root.findall("." + path)
    except (ElementTree.ParseError, SyntaxError, KeyError, TypeError) as error:
        # ElementTree compiles some broken paths, and fails with a TypeError when it walks them.
        raise _NotFound from error
    for element in found:
        value = _node_value(element, end)
        if value is not None:
            return value
    raise _NotFound


def _node_value(element: ElementTree.Element, end: re.Match[str] | None) -> str | None:
    if end and end["attribute"]:
        return element.get(end["attribute"])
    if end and end["text"]:
        return element.text
    return "".join(element.itertext())
