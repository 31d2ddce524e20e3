"""The differ of trees, on which replays and trials stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from coprocess.desk.trees import ABSENT, Difference, TreePath, differences, dotted


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": True}, ["a: expected 1, got True"]),
        ({"a": 1}, {"a": 1.0}, ["a: expected 1, got 1.0"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ["a.b[1]: expected 2, got 3"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a: expected [1], got [1, 2]"]),
        ({"b": None}, {}, ["b: expected None, got nothing"]),
        ({}, {"z": 1, "b": 2}, ["b: expected nothing, got 2", "z: expected nothing, got 1"]),
        ([{"k": 1}], [{"k": 2}], ["[0].k: expected 1, got 2"]),
        (1, 2, ["value: expected 1, got 2"]),
    ],
)
def test_each_place_is_told_once(before: Any, after: Any, told: list[str]) -> None:
    assert [str(difference) for difference in differences(before, after)] == told


def test_a_judge_decides_before_the_usual_rules_also_where_a_value_is_absent() -> None:
    asked = []

    def judge(path: TreePath, before: Any, after: Any) -> Iterable[Difference] | None:
        asked.append(dotted(path))
        if path == ("time",):
            return ()
        return (Difference(path, before, "whole"),) if path == ("body",) else None

    before = {"time": 1, "body": {"a": 1}, "gone": 2}
    found = list(differences(before, {"time": 5, "body": {"a": 1}}, judge))
    assert found == [Difference(("body",), {"a": 1}, "whole"), Difference(("gone",), 2, ABSENT)]
    assert asked == ["", "body", "gone", "time"]


def test_what_is_shown_is_cut() -> None:
    (found,) = differences({"a": "x" * 10_000}, {"a": ""})
    assert len(str(found)) < 300
