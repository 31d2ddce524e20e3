"""From signatures to call plans, and what a wrong signature is told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coprocess.api.functions import Source, describe, is_async
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError
from coprocess.loading.home import ANYWHERE, PARAMETERS
from coprocess.loading.plan import arguments_getter, native_plan

SOURCE = Source(Path("handlers/some.py"), 12)


def refusal(function: Any, hook_type: HookType = HookType.Pre) -> str:
    with pytest.raises(HandlerError) as caught:
        native_plan(function, hook_type, SOURCE, ANYWHERE)
    return str(caught.value)


def test_unknown_parameter() -> None:
    def handler(request: Any, sesion: Any) -> None: ...

    assert refusal(handler) == (
        'handlers/some.py:12: handler() asks for "sesion", which a Pre hook does not have. '
        "Expected: any of request, session, metadata, spec, state"
    )


@pytest.mark.parametrize("hook_type", [HookType.Pre, HookType.CustomKeyCheck, HookType.Post])
def test_response_is_for_response_hooks_only(hook_type: HookType) -> None:
    def handler(response: Any) -> None: ...

    assert f'asks for "response", which a {hook_type.name} hook does not have' in refusal(handler, hook_type)
    native_plan(handler, HookType.Response, SOURCE, ANYWHERE)


def test_request_is_not_for_events() -> None:
    def handler(request: Any) -> None: ...

    assert refusal(handler, HookType.Event).endswith("Expected: any of event, spec, state")


def test_variable_arguments() -> None:
    def positional(*args: Any) -> None: ...
    def keywords(request: Any, **kwargs: Any) -> None: ...

    assert "positional() takes *args, which tells nothing" in refusal(positional)
    assert "keywords() takes **kwargs, which tells nothing" in refusal(keywords)
    assert "functools.wraps" in refusal(positional)


def called(handler: Callable[..., Any]) -> Any:
    """What `handler` returns for a call whose attributes are their own names."""
    plan = native_plan(handler, HookType.Pre, SOURCE, ANYWHERE)
    call = SimpleNamespace(request="request", session="session", metadata="metadata", spec="spec")
    return (plan.function or handler)(*plan.arguments(call))


def test_keyword_only_parameters_are_passed_by_name() -> None:
    def handler(request: Any, *, spec: Any, session: Any) -> Any:
        return request, session, spec

    assert called(handler) == ("request", "session", "spec")


def test_a_parameter_behind_one_with_a_value_of_its_own_is_passed_by_name() -> None:
    def handler(session: Any, prefix: str = "p", request: Any = None) -> Any:
        return session, prefix, request

    assert called(handler) == ("session", "p", "request")
    assert called(functools.partial(handler, prefix="q")) == ("session", "q", "request")


def test_own_defaults_are_left_alone() -> None:
    def handler(request: Any, prefix: str = "p", *, suffix: str = "s") -> None: ...

    call = SimpleNamespace(request="the request")
    assert native_plan(handler, HookType.Pre, SOURCE, ANYWHERE).arguments(call) == ("the request",)


def test_self_of_a_method_that_nobody_bound() -> None:
    class Service:
        def handle(self, request: Any) -> None: ...

    assert 'handle() asks for "self"' in refusal(Service.handle)


def test_function_without_a_signature() -> None:
    assert "has no readable signature" in refusal(type)


def test_generators_would_never_run() -> None:
    def generator(request: Any) -> Any:
        yield

    async def async_generator(request: Any) -> Any:
        yield

    assert "generator() yields. Expected: " in refusal(generator)
    assert "async_generator() yields. Expected: " in refusal(async_generator)


def test_describe() -> None:
    class Handler:
        def __call__(self) -> None: ...

    assert describe(test_describe) == "test_describe()"
    assert describe(Handler()) == "an instance of Handler"


def test_sync_wrapper_is_async_where_what_it_wraps_is() -> None:
    async def inner() -> None: ...

    @functools.wraps(inner)
    def once(*args: Any) -> Any:
        return inner(*args)

    @functools.wraps(once)
    def twice(*args: Any) -> Any:
        return once(*args)

    def plain(*args: Any) -> Any:
        return inner(*args)

    assert is_async(twice)
    assert is_async(functools.partial(twice))
    assert not is_async(plain)


REQUEST_PARAMETERS = PARAMETERS[HookType.Pre]


@given(st.lists(st.sampled_from(PARAMETERS[HookType.Response]), unique=True))
def test_any_subset_in_any_order_is_filled_by_name(names: list[str]) -> None:
    namespace: dict[str, Any] = {}
    # The only way to a function with parameters of these names.
    exec(f"def handler({', '.join(names)}): return ({''.join(f'{name},' for name in names)})", namespace)  # noqa: S102
    call = SimpleNamespace(**{name: f"the {name}" for name in PARAMETERS[HookType.Response]})

    plan = native_plan(namespace["handler"], HookType.Response, SOURCE, ANYWHERE)

    assert namespace["handler"](*plan.arguments(call)) == tuple(f"the {name}" for name in names)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1).filter(str.isidentifier))
def test_every_other_name_is_refused(name: str) -> None:
    import keyword

    if name in REQUEST_PARAMETERS or keyword.iskeyword(name):
        return
    namespace: dict[str, Any] = {}
    exec(f"def handler({name}): pass", namespace)  # noqa: S102 - as above

    assert f'asks for "{name}"' in refusal(namespace["handler"])


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b"], ["b", "a", "c"]])
def test_arguments_getter_always_gives_a_tuple(names: list[str]) -> None:
    values = SimpleNamespace(a=1, b=(2,), c=None)

    assert arguments_getter(names)(values) == tuple(attrgetter(name)(values) for name in names)
