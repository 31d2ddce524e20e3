"""Messages with more headers than they may have: refused, whatever form they come in, and none slips by."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coprocess import Request
from coprocess.api.moments import HookType
from coprocess.errors import TooManyHeaders, UnknownHook
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.wire import Object, ResponseObject
from coprocess.loading.hooks import HookTable
from coprocess.transport.engines import EngineChoice
from tests.objects import hook_table, make_object, make_request
from tests.server import ENGINES, serving, status_of

# Short, as what is small is what could slip by.
_NAMES = st.text("ab", max_size=3)
_HEADERS = st.dictionaries(_NAMES, st.text("a", max_size=1), max_size=8)
_SEVERAL = st.lists(st.tuples(_NAMES, st.lists(st.text("a", max_size=1), max_size=4)), max_size=8)


def is_refused(payload: bytes, limit: int) -> bool:
    # Where it is not refused for this, no handler is loaded for it.
    with pytest.raises((TooManyHeaders, UnknownHook)) as caught:
        Dispatcher(HookTable(), max_headers=limit).open_dispatch(payload)
    return caught.type is TooManyHeaders


@given(_HEADERS, _HEADERS, _SEVERAL, st.integers(1, 20))
@example({}, {}, [("", [""] * 4)] * 8, 20)
@example({}, {}, [("", [])] * 3, 2)
def test_as_many_as_may_be_and_no_more(
    sent: dict[str, str], received: dict[str, str], several: list[tuple[str, list[str]]], limit: int
) -> None:
    message = Object(hook_type=int(HookType.Pre))  # type: ignore[arg-type]  # the enum's numbers are the protocol's
    message.request.headers.update(sent)
    message.response.headers.update(received)
    for name, values in several:
        message.response.multivalue_headers.add(key=name, values=values)
    of_response = max(len(received), sum(len(values) or 1 for _, values in several))
    assert is_refused(message.SerializeToString(), limit) == (len(sent) + of_response > limit)


@pytest.mark.parametrize(("count", "refused"), [(20, False), (21, True)])
def test_the_smallest_message_that_could_slip_by(count: int, refused: bool) -> None:
    """Made by hand: the hook's type, and a response of headers that have neither name nor value."""
    field = Object.DESCRIPTOR.fields_by_name
    response = ResponseObject.DESCRIPTOR.fields_by_name["multivalue_headers"].number << 3 | 2
    headers = bytes([response, 0]) * count
    payload = (
        bytes([field["hook_type"].number << 3, 1, field["response"].number << 3 | 2, len(headers)]) + headers
    )
    assert len(Object.FromString(payload).response.multivalue_headers) == count
    assert is_refused(payload, 20) is refused


@pytest.mark.parametrize("engine", ENGINES)
def test_a_service_refuses_and_counts_them(engine: EngineChoice) -> None:
    def add_many(request: Request) -> None:
        for number in range(50):
            request.headers[f"X-{number}"] = "1"

    few = make_object(request=make_request(headers={f"H-{number}": "1" for number in range(9)}))
    many = make_object(request=make_request(headers={f"H-{number}": "1" for number in range(10)}))
    with serving(hook_table(HookType.Pre, add_many), engine=engine, max_headers=10) as server:
        # Those that a handler sets do not count.
        assert len(server.client.dispatch(few).request.set_headers) == 50
        assert server.service.refused_calls == 0
        with pytest.raises(grpc.RpcError) as caught:
            server.client.dispatch(many)
        text = "the message has more than 10 headers (max_headers)"
        assert status_of(caught.value) == (grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        assert server.service.refused_calls == 1
        server.client.dispatch(few)
