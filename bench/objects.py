"""Serialized Objects that the load generator sends."""

from coprocess.gateways.tyk.wire import Object


def pre_object(hook_name: str, body: bytes = b"x" * 256) -> bytes:
    """What a gateway sends for a Pre hook of a small POST."""
    message = Object(hook_type="Pre", hook_name=hook_name)
    request = message.request
    request.headers.update(
        {
            "Accept": "*/*",
            "Accept-Encoding": "gzip",
            "Authorization": "abcdefghijklmnop0123456789",
            "Content-Type": "application/json",
            "Host": "127.0.0.1:8080",
            "User-Agent": "curl/8.0",
            "X-Request-Id": "8c1c6ffc-33c4-4a7a-8a51-6ef4d61ab8ff",
        }
    )
    request.url = request.request_uri = "/get?a=1"
    request.params["a"] = "1"
    request.method, request.scheme = "POST", "http"
    request.raw_body, request.body = body, body.decode()
    request.return_overrides.response_code = -1
    message.spec.update({"OrgID": "default", "APIID": "7", "config_data": '{"k":"v"}'})
    return message.SerializeToString()
