"""Messages in memory: the semantics that Tyk's views have."""

from __future__ import annotations

import gzip
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coprocess import Request, Response, respond
from coprocess.api.held import HeldHeaders, HeldRequest, HeldResponse
from coprocess.api.held_session import HeldSession
from coprocess.api.http import canonical_name
from coprocess.gateways.web.asgi_messages import scope_request
from coprocess.gateways.web.http import raw_headers
from coprocess.gateways.web.wsgi_messages import environ_headers, environ_request, native_headers


def request(target: str = "/a%20b?b=2&a=1&a=3", *headers: tuple[str, str], body: bytes = b"") -> HeldRequest:
    return HeldRequest("GET", target, HeldHeaders(headers), body_source=lambda: body)


def test_an_edited_query_is_written_as_tyk_writes_it() -> None:
    came = request("/q?b=2&a=1&a=3")
    assert (came.url, came.query_string) == ("/q?b=2&a=1&a=3", "b=2&a=1&a=3")
    came.query["a"] = "9"
    came.query["c"] = "x y"
    assert came.url == "/q?a=9&b=2&c=x+y"
    assert came.target == "/q?b=2&a=1&a=3"


@pytest.mark.parametrize("edit", ["set", "removed", "added"])
def test_a_query_parameter_that_nobody_edits_goes_out_byte_for_byte(edit: str) -> None:
    untouched = "%FF=1&%ff=2&b=%ff&b=a%20b&c&d==&e=\xc3\xa9/:@"
    came = request(f"/q?a=1&{untouched}")
    if edit == "set":
        came.query["a"] = "\xff 9"
        assert came.query_string == "a=%C3%BF+9&b=%ff&b=a%20b&c&d==&e=\xc3\xa9/:@&%FF=1&%ff=2"
    elif edit == "removed":
        del came.query["a"]
        assert came.query_string == "b=%ff&b=a%20b&c&d==&e=\xc3\xa9/:@&%FF=1&%ff=2"
    else:
        came.query["bb"] = ""
        assert came.query_string == "a=1&b=%ff&b=a%20b&bb=&c&d==&e=\xc3\xa9/:@&%FF=1&%ff=2"
    assert came.copy().query_string == came.query_string
    twin = came.copy()
    twin.query["c"] = "x"
    assert twin.query_string == came.query_string.replace("&c&", "&c=x&")


def test_a_url_keeps_the_query_that_came() -> None:
    came = request("/a?x=1")
    came.url = "/b?x=1"
    assert (came.path, came.url) == ("/b", "/b?x=1")
    came.url = "http://elsewhere.test/c"
    assert came.path == "/c"
    for bad in ("/b?y=2", "relative", "", "/%zz", "/a\nb"):
        with pytest.raises(ValueError, match=r"query|URL|path"):
            came.url = bad
    assert came.path == "/c"


def test_a_new_path_is_sent_encoded() -> None:
    came = request()
    came.path = "/ä b%2F#"
    assert (came.path, came.encoded_path) == ("/ä b%2F#", "/%C3%A4%20b%2F%23")


def test_a_new_body_drops_what_told_of_the_old_one_and_keeps_what_the_handler_set() -> None:
    packed = gzip.compress(b"old")
    came = request("/", ("Content-Encoding", "gzip"), ("etag", "1"), ("Digest", "d"), body=packed)
    assert came.body == b"old"
    came.headers["ETag"] = "mine"
    came.body = "new"
    assert came.raw_body == b"new"
    assert came.body == b"new"
    assert dict(came.headers) == {"Etag": "mine"}
    assert came.headers.edited == {"Etag", "Content-Encoding", "Digest"}


def test_what_one_handler_set_is_to_the_next_one_what_came() -> None:
    answer = HeldResponse(200, HeldHeaders())
    answer.body = gzip.compress(b"packed")
    answer.headers["Content-Encoding"] = "gzip"
    answer.headers["Etag"] = "of the first"
    answer.next_call()
    assert answer.body == b"packed"
    answer.body = b"plain"
    assert dict(answer.headers) == {}


def test_a_copy_is_not_reached_by_later_edits() -> None:
    came = request("/a?x=1", ("X-A", "1"), body=b"old")
    came.query["x"] = "2"
    twin = came.copy()
    came.path, came.headers["X-A"], came.body = "/other", "2", b"new"
    came.query["x"] = "3"
    assert (twin.url, twin.headers["x-a"], twin.raw_body) == ("/a?x=2", "1", b"old")
    assert twin.has_new_query
    answer = HeldResponse(200, HeldHeaders([("A", "1")]), body_source=lambda: b"old")
    other = answer.copy()
    answer.status, answer.headers["A"], answer.body = 201, "2", b"new"
    assert (other.status, other.headers["A"], other.raw_body) == (200, "1", b"old")


def test_headers_keep_all_values_and_their_order() -> None:
    headers = HeldHeaders([("set-cookie", "a=1"), ("x", "1"), ("Set-Cookie", "b=2")])
    assert headers.getall("SET-COOKIE") == ["a=1", "b=2"]
    headers.add("Set-Cookie", "c=3")
    assert [value for name, value in headers.pairs() if name.lower() == "set-cookie"] == ["a=1", "b=2", "c=3"]
    with pytest.raises(ValueError, match="control"):
        headers["X"] = "a\r\nb"
    with pytest.raises(KeyError):
        del headers["Absent"]


@pytest.mark.parametrize("status", [0, 99, 1000, True, "200"])
def test_a_status_that_is_none_is_refused(status: Any) -> None:
    answer = HeldResponse(200, HeldHeaders())
    with pytest.raises(ValueError, match="status"):
        answer.status = status


def test_a_session_is_false_until_it_is_allowed() -> None:
    session = HeldSession()
    assert not session
    session.allow(
        "t", rate=5, quota_max=3, quota_renewal_rate_s=60, alias="ann", tags=["x"], metadata={"k": "v"}
    )
    assert session
    assert (session.token, session.rate, session.per, session.quota_remaining) == ("t", 5.0, 1.0, 3)
    assert (session.alias, list(session.tags), dict(session.metadata)) == ("ann", ["x"], {"k": "v"})
    assert "t'" not in repr(session)


@pytest.mark.parametrize(
    ("token", "options", "told"),
    [
        ("", {}, "token"),
        ("t", {"per": 1}, "per without rate"),
        ("t", {"policies": ["gold"]}, "policies are Tyk's"),
        ("t", {"tags": "text"}, "several values"),
        ("t", {"tags": [1]}, "tags"),
        ("t", {"metadata": {"n": 1}}, "metadata"),
        ("t", {"rate": "5"}, "rate"),
        ("t", {"rate": -1}, "rate"),
        ("t", {"quota_max": 1.5}, "quota_max"),
        ("t", {"expires_at": "soon"}, "expires_at"),
        ("t", {"alias": 7}, "alias"),
    ],
)
def test_a_session_that_is_allowed_wrongly_admits_nobody(
    token: str, options: dict[str, Any], told: str
) -> None:
    session = HeldSession()
    with pytest.raises((TypeError, ValueError), match=told):
        session.allow(token, **options)
    assert not session


def test_metadata_and_tags_are_text() -> None:
    session = HeldSession()
    with pytest.raises(TypeError, match="metadata"):
        session.metadata["n"] = 1  # type: ignore[assignment]  # what users write
    with pytest.raises(TypeError, match="metadata"):
        session.metadata = {"a": "1", "n": 1}  # type: ignore[dict-item]  # the same
    session.tags.append("a")
    with pytest.raises(TypeError, match="tags"):
        session.tags.append(1)  # type: ignore[arg-type]  # the same
    assert (dict(session.metadata), list(session.tags)) == ({}, ["a"])


_NAMES = st.sampled_from(["X-A", "x-a", "Accept", "accept", "content-type", "Content-Type", "X_A", "Ä"])
_VALUES = st.sampled_from(["", "1", "zwei", "ü"])
_EDITS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["set", "add"]), _NAMES, _VALUES),
        st.tuples(st.sampled_from(["delete", "get", "getall", "has", "list"]), _NAMES, st.just("")),
    ),
    max_size=12,
)


def _done(headers: HeldHeaders, do: str, name: str, value: str) -> object:
    try:
        match do:
            case "set":
                headers[name] = value
            case "add":
                headers.add(name, value)
            case "delete":
                del headers[name]
            case "get":
                return headers.get(name), headers.get(7)  # type: ignore[call-overload]  # as careless code does
            case "getall":
                return headers.getall(name)
            case "has":
                return name in headers
            case _:
                return list(headers), headers.pairs()
    except (KeyError, ValueError) as error:
        return type(error)
    return None


@given(came=st.lists(st.tuples(_NAMES, _VALUES), max_size=5), edits=_EDITS, wsgi=st.booleans())
def test_headers_that_are_not_read_yet_are_as_those_that_are(
    came: list[tuple[str, str]], edits: list[tuple[str, str, str]], wsgi: bool
) -> None:
    read = HeldHeaders([(canonical_name(name), value) for name, value in came])
    unread: HeldHeaders
    if wsgi:
        unread = native_headers([(name, value.encode().decode("latin-1")) for name, value in came])
    else:
        unread = raw_headers([(name.encode("latin-1"), value.encode()) for name, value in came])
    for do, name, value in edits:
        assert _done(unread, do, name, value) == _done(read, do, name, value)
    assert unread.edited == read.edited
    assert unread.pairs() == read.pairs()


def test_headers_of_environ_are_found_by_the_names_that_http_has() -> None:
    environ = {
        "HTTP_X_A": "1",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "",
        "HTTP_Ä": "no",
        "PATH_INFO": "/",
    }
    headers = environ_headers(environ)
    assert headers.get("x-a") == "1"
    assert headers.get("Content-Type") == "text/plain"
    assert headers.get("X_A") is None
    assert headers.get("Content-Length") is None
    assert headers.get("Path-Info") is None
    assert {"X-A", "Content-Type"} <= set(headers)


def test_cookies_of_several_lines_are_all_there() -> None:
    """Those behind the first line were not, though the upstream gets them."""
    headers = HeldHeaders([("Cookie", "a=1; b=2"), ("Cookie", "role=admin; a=9")])
    assert dict(HeldRequest("GET", "/", headers).cookies) == {"a": "1", "b": "2", "role": "admin"}


def test_a_path_that_a_server_has_decoded_reads_as_in_other_homes() -> None:
    """Around WSGI apps `/users/@me` was `/users/%40me`: a check by the path did not know it."""
    path = "/users/@me;v=1/a+b,c:d/~x!$&'()*"
    environ = environ_request({"PATH_INFO": path, "REQUEST_METHOD": "GET"})
    scope = scope_request({"path": path, "headers": [], "method": "GET"})
    assert environ.path == scope.path == path
    for decoded, shown in (("/a b", "/a%20b"), ("/%61", "/%2561"), ("/a?b", "/a%3Fb"), ("/ü", "/%C3%BC")):
        came = decoded.encode().decode("latin-1")
        assert environ_request({"PATH_INFO": came, "REQUEST_METHOD": "GET"}).path == shown
        assert scope_request({"path": decoded, "headers": [], "method": "GET"}).path == shown


def test_a_target_is_what_the_client_sent_whatever_was_edited_since() -> None:
    came = HeldRequest("GET", "/a", HeldHeaders(), query="b=1")
    assert came.target == "/a?b=1"
    came.path = "/c"
    came.query["b"] = "2"
    assert (came.target, came.url) == ("/a?b=1", "/c?b=2")
    assert came.copy().target == "/a?b=1"


@pytest.mark.parametrize(
    ("view", "name", "says"),
    [
        (request(), "args", "a request has no args. Expected: request.query"),
        (request(), "get_json", r"Expected: request.json\(\)"),
        (request(), "nothing", "has no attribute 'nothing'$"),
        (
            HeldResponse(200, HeldHeaders()),
            "status_code",
            "a response has no status_code. Expected: response.status",
        ),
        (HeldResponse(200, HeldHeaders()), "set_cookie", "Set-Cookie"),
    ],
)
def test_names_of_other_frameworks_lead_to_ours(view: Any, name: str, says: str) -> None:
    with pytest.raises(AttributeError, match=says):
        getattr(view, name)


def test_respond_says_that_the_status_comes_first() -> None:
    with pytest.raises(TypeError, match=r"the status first: respond\(401, …\)"):
        respond("no", 401)  # type: ignore[arg-type]  # as Flask has it


def test_a_mock_of_a_request_has_no_names_of_other_frameworks() -> None:
    for spec in (Request, Response, HeldRequest("GET", "/", HeldHeaders()), HeldResponse(200, HeldHeaders())):
        mock = Mock(spec=spec)
        assert mock.headers is not None
        assert mock.body is not None
        for name in ("data", "get_json"):
            with pytest.raises(AttributeError):
                getattr(mock, name)
            assert name not in dir(spec)
    with pytest.raises(AttributeError, match=r"Expected: request\.body"):
        getattr(HeldRequest("GET", "/", HeldHeaders()), "da" + "ta")


def test_headers_of_an_environ_are_those_that_can_be_asked_for() -> None:
    headers = environ_headers(
        {
            "HTTP_CONTENT_TYPE": "a client's Content_Type",
            "HTTP_CONTENT_LENGTH": "9",
            "CONTENT_TYPE": "text/plain",
            "CONTENT_LENGTH": "",
            "HTTP_X_A": "1",
        }
    )
    assert {name: headers.get(name) for name in headers} == {"Content-Type": "text/plain", "X-A": "1"}
    assert dict(headers) == {"Content-Type": "text/plain", "X-A": "1"}
    assert "Content-Length" not in headers


def test_a_new_body_for_a_part_is_the_whole_as_at_tyk() -> None:
    """Kong, Envoy and web apps sent it as 206, with a Content-Range of other bytes."""
    came = HeldResponse(206, HeldHeaders([("Content-Range", "bytes 1-2/9")]), body_source=lambda: b"bc")
    came.body = b"new"
    assert (came.status, dict(came.headers)) == (200, {})
    own = HeldResponse(206, HeldHeaders([("Content-Range", "bytes 1-2/9")]), body_source=lambda: b"bc")
    own.headers["Content-Range"] = "bytes 0-2/9"
    own.body = b"new"
    assert (own.status, dict(own.headers)) == (206, {"Content-Range": "bytes 0-2/9"})


@pytest.mark.parametrize("status", [100, 101, 199, 600, 999])
def test_a_status_that_ends_no_response_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="200 to 599"):
        HeldResponse(200, HeldHeaders()).status = status


@pytest.mark.parametrize("is_copy", [False, True])
def test_an_edit_of_a_query_leaves_the_bytes_of_what_it_does_not_edit(is_copy: bool) -> None:
    came = request("/?b=%ff%FE&%e9=1&a=%zz&gone=%ff")
    came.query["c"] = "\u00e9"
    del came.query["gone"]
    came = came.copy() if is_copy else came
    assert came.query_string == "a=%zz&b=%ff%FE&c=%C3%A9&%e9=1"
    del came.query[next(name for name in came.query if not name.isascii())]
    assert came.query_string == "a=%zz&b=%ff%FE&c=%C3%A9"
