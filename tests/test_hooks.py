"""The table of hooks: which handler a call gets, and what it is told where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coprocess.api.functions import Source
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError, Status, UnknownHook
from coprocess.loading.hooks import DuplicateHandler, Hook, HookTable, Plan


def hook(
    name: str,
    hook_type: HookType = HookType.Pre,
    *,
    line: int = 1,
    api_id: str | None = None,
    bundle: frozenset[str] = frozenset(),
    any_type: bool = False,
) -> Hook:
    return Hook(
        type=hook_type,
        name=name,
        handler=lambda: None,
        function=lambda: None,
        plan=Plan(arguments=lambda call: (), accept=lambda call, result: None),
        is_async=False,
        style="native",
        source=Source(Path("handlers.py"), line),
        api_id=api_id,
        bundle=bundle,
        any_type=any_type,
    )


def refusal(table: HookTable, hook_type: int, name: str, api_id: str = "", bundle: str = "") -> str:
    with pytest.raises(UnknownHook) as caught:
        table.choose(hook_type, name, api_id, bundle)
    assert caught.value.status is Status.NOT_FOUND
    return str(caught.value)


def test_found_by_type_and_name() -> None:
    pre, post = hook("same"), hook("same", HookType.Post)
    table = HookTable([pre, post])

    assert table.find(HookType.Pre, "same") is pre
    assert table.find(HookType.Post, "same") is post
    assert table.find(HookType.Response, "same") is None
    assert table.choose(HookType.Pre, "same") is pre
    assert set(table) == {pre, post}
    assert len(table) == 2


def test_unknown_hook_names_itself_and_near_misses_first() -> None:
    table = HookTable(
        [hook("Unrelated"), hook("token"), hook("CheckTokens", HookType.Post), hook("CheckTokens")]
    )

    assert refusal(table, HookType.Pre, "CheckToken", api_id="an-api") == (
        'no Pre hook "CheckToken" for API "an-api"; loaded, nearest first: Pre "CheckTokens", '
        'Post "CheckTokens", Pre "token", Pre "Unrelated"'
    )


def test_name_under_another_type_is_the_nearest_miss() -> None:
    table = HookTable([hook("AuthChecks"), hook("AuthCheck", HookType.Post)])

    text = refusal(table, HookType.CustomKeyCheck, "AuthCheck")

    assert text.partition("nearest first: ")[2].startswith('Post "AuthCheck", Pre "AuthChecks"')


def test_unknown_hook_of_a_large_table_shows_the_nearest_only() -> None:
    table = HookTable(hook(f"hook_{number:02}", line=number) for number in range(30))

    text = refusal(table, HookType.Pre, "hook_2")

    assert text.endswith(" and 20 more")
    assert text.count('Pre "hook_') == 10


def test_unknown_hook_where_nothing_is_loaded() -> None:
    assert refusal(HookTable(), HookType.Event, "x") == 'no Event hook "x" for API "": nothing is loaded'


def test_unknown_hook_type() -> None:
    assert refusal(HookTable([hook("x")]), 77, "x").startswith('no type 77 hook "x" for API ""; loaded')


def test_handler_of_one_api_is_for_no_other() -> None:
    table = HookTable([hook("x", api_id="a")])

    assert table.find(HookType.Pre, "x") is None
    assert table.choose(HookType.Pre, "x", "a").api_id == "a"
    assert 'Pre "x" (API "a" only)' in refusal(table, HookType.Pre, "x", api_id="b")
    assert 'for API ""' in refusal(table, HookType.Pre, "x")


def test_handler_for_the_api_goes_before_the_one_for_all() -> None:
    general, special = hook("x"), hook("x", api_id="a")
    table = HookTable([general, special])

    assert table.choose(HookType.Pre, "x", "a") is special
    assert table.choose(HookType.Pre, "x", "b") is general


def test_handler_of_the_apis_bundle_goes_before_the_one_of_none() -> None:
    bundled, other, loose = hook("x", bundle=frozenset("h")), hook("x", bundle=frozenset("i")), hook("x")
    table = HookTable([bundled, other, loose])

    assert table.choose(HookType.Pre, "x", bundle="h") is bundled
    assert table.choose(HookType.Pre, "x", bundle="i") is other
    assert table.choose(HookType.Pre, "x", bundle="none of these") is loose


def test_handlers_of_several_bundles_are_not_guessed_among() -> None:
    table = HookTable([hook("x", line=1, bundle=frozenset("h")), hook("x", line=2, bundle=frozenset("i"))])

    assert refusal(table, HookType.Pre, "x", api_id="a", bundle="j") == (
        'no Pre hook "x" for API "a": several bundles have one, and none is the API\'s own: '
        "handlers.py:1, handlers.py:2"
    )


def test_api_and_bundle_together() -> None:
    table = HookTable(
        [
            hook("x", line=1, bundle=frozenset("h")),
            hook("x", line=2, bundle=frozenset("h"), api_id="a"),
            hook("x", line=3, bundle=frozenset("i"), api_id="a"),
        ]
    )

    assert table.choose(HookType.Pre, "x", "a", "h").source.line == 2
    assert table.choose(HookType.Pre, "x", "a", "i").source.line == 3
    assert table.choose(HookType.Pre, "x", "b", "h").source.line == 1


def test_handler_of_any_type_gives_way() -> None:
    anywhere, typed = hook("x", any_type=True), hook("x")

    assert HookTable([anywhere, typed]).find(HookType.Pre, "x") is typed
    assert HookTable([typed, anywhere]).find(HookType.Pre, "x") is typed
    assert HookTable([anywhere]).find(HookType.Pre, "x") is anywhere


@pytest.mark.parametrize("any_type", [False, True])
def test_duplicate_names_both_places(any_type: bool) -> None:
    second = hook("x", line=9, any_type=any_type)

    with pytest.raises(DuplicateHandler) as caught:
        HookTable([hook("x", line=4, any_type=any_type), second])

    assert isinstance(caught.value, HandlerError)
    assert caught.value.hook is second
    assert str(caught.value) == (
        'handlers.py:9: a second Pre handler "x"; the first is at handlers.py:4. '
        "Expected: one handler for each type and name"
    )


def test_duplicate_for_one_api_says_so() -> None:
    with pytest.raises(DuplicateHandler, match='a second Pre handler "x" for API "a"; the first'):
        HookTable([hook("x", api_id="a"), hook("x", api_id="a")])


def test_hook_tells_where_it_is() -> None:
    assert str(hook("x", line=3)) == 'Pre "x" (handlers.py:3)'


names = st.sampled_from(["a", "b"])
choices = st.one_of(st.none(), st.sampled_from(["api1", "api2"]))
bundle_choices = st.sampled_from([frozenset[str](), frozenset({"h1"}), frozenset({"h2"})])


@given(
    st.lists(st.tuples(names, choices, bundle_choices), unique=True),
    names,
    st.sampled_from(["api1", "api2", "api3", ""]),
    st.sampled_from(["h1", "h2", "h3", ""]),
)
def test_choice_is_never_of_another_api_and_bundle_than_it_could_be(
    keys: list[tuple[str, str | None, frozenset[str]]], name: str, api_id: str, bundle_hash: str
) -> None:
    hooks = [hook(key_name, api_id=key_api, bundle=bundle) for key_name, key_api, bundle in keys]
    table = HookTable(hooks)
    possible = [each for each in hooks if each.name == name and each.api_id in (None, api_id)]

    try:
        found = table.choose(HookType.Pre, name, api_id, bundle_hash)
    except UnknownHook:
        # Only where there is none, or none that is better than another.
        assert len({each.bundle for each in possible}) != 1
        return
    assert found in possible
    for_api = [each for each in possible if each.api_id == api_id]
    assert found in (for_api or possible)
    assert found.bundle >= {bundle_hash} or not any(
        bundle_hash in each.bundle for each in for_api or possible
    )


def test_hooks_are_told_apart_by_identity() -> None:
    """Two that are alike in everything are two: of two generations, say."""
    one = hook("x")

    assert replace(one) != one
    assert len({one, replace(one)}) == 2


def test_names_with_control_characters_are_harmless_in_texts() -> None:
    name = "red\x1b[31m\nline\ud800"
    odd = replace(hook(name, api_id="a\rb"), version="v\t2")

    for text in (
        refusal(HookTable([odd]), HookType.Pre, "asked\x07", api_id="b\nc"),
        str(odd),
        str(DuplicateHandler(odd, odd)),
    ):
        assert text.isprintable()
        assert "red\\x1b[31m\\nline\\ud800" in text
