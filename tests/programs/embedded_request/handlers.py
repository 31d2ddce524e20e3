"""The request's methods and attributes."""

from tyk.decorators import *


@Pre
def Methods(request, session, spec):
    assert request.get_header("X-Absent") is None
    assert request.get_header("X-Given") == "g"
    assert request.get_header("x-given") == "g"
    request.add_header("custom_header", "v")
    request.delete_header("X-Given")
    request.add_param("added", "1")
    request.delete_param("gone")
    return request, session


@Pre
def Attributes(request, session, spec):
    assert request.method == "GET"
    assert request.headers["X-Given"] == "g"
    assert request.object.url == request.url
    request.mine = "kept"
    assert request.mine == "kept"
    request.url = "/other"
    request.object.raw_body = b"raw"
    request.return_overrides.headers["X-Over"] = "1"
    request.object.return_overrides.response_code = 418
    try:
        request.nothing
    except AttributeError:
        pass
    else:
        raise AssertionError("an attribute that nobody set")
    return request, session


@Pre
def Dicts(request, session, metadata, spec):
    assert spec["APIID"] == "api" and spec.get("absent") is None and "absent" not in spec
    assert dict(spec)["OrgID"] == "default" and "APIID" in list(spec) and "APIID" in spec.keys()
    metadata["a"] = "1"
    metadata.update({"b": "2", "c": "3"})
    assert metadata.pop("c") == "3" and len(metadata) == 2
    assert sorted(metadata.items()) == [("a", "1"), ("b", "2")]
    del metadata["a"]
    return request, session, metadata


@Pre
def Prints(request, session, spec):
    print(request, session, spec)
    return request, session
