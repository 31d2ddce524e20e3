"""Values of a schema's attributes: those that Kong takes, and those with which it does not start."""

from __future__ import annotations

from typing import Any

import pytest

from coprocess.gateways.kong.schema import schema_problems

TEXTS = ["a", "b"]
GOOD: list[dict[str, Any]] = [
    {"type": "string", "required": True, "one_of": TEXTS, "default": "a", "description": "what it is for"},
    {"type": "string", "one_of": {}, "len_min": 0, "len_max": 5.0, "match": "^a", "not_match": "b"},
    {"type": "string", "match_all": [{"pattern": "a", "err": "no a"}], "match_none": [{"pattern": "b"}]},
    {"type": "string", "match_any": {"patterns": TEXTS, "err": "neither"}, "starts_with": "a"},
    {"type": "string", "uuid": True, "unique": True, "is_regex": False, "referenceable": True, "err": "no"},
    {"type": "string", "required": None, "one_of": None},
    {"type": "number", "between": [0.5, 2], "gt": 0, "one_of": [1, 2], "timestamp": True},
    {"type": "integer", "between": (1, 65535), "not_one_of": [3]},
    {"type": "array", "elements": {"type": "string", "len_eq": 2}, "contains": "ab", "len_eq": 1},
    {"type": "map", "keys": {"type": "string"}, "values": {"type": "number", "gt": 1.5}},
    {"type": "record", "fields": [{"b": {"type": "boolean", "default": False, "encrypted": False}}]},
    {"type": "record", "fields": [], "mutually_exclusive_subsets": [["a"], ["b", "c"]]},
    {"type": "foreign", "reference": "services", "on_delete": "cascade", "unique": True},
    {"type": "json", "json_schema": {"inline": {"type": "object"}}},
]


@pytest.mark.parametrize("definition", GOOD)
def test_what_kong_takes_is_taken(definition: dict[str, Any]) -> None:
    assert list(schema_problems([{"a": definition}])) == []


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        ({"type": "string", "required": "yes"}, "Schema.a: required is 'yes'. Expected: true or false"),
        ({"type": "string", "required": 1}, "required is 1"),
        ({"type": "string", "one_of": "a"}, "one_of is 'a'. Expected: a list"),
        ({"type": "string", "not_one_of": {"a": 1}}, "not_one_of is {'a': 1}"),
        ({"type": "number", "between": [1]}, "between is [1]. Expected: two numbers"),
        ({"type": "number", "between": ["1", "2"]}, "between is ['1', '2']"),
        ({"type": "number", "between": 5}, "between is 5"),
        ({"type": "number", "between": [True, 2]}, "between is [True, 2]"),
        ({"type": "number", "gt": "1"}, "gt is '1'. Expected: a number"),
        ({"type": "string", "len_min": 1.5}, "len_min is 1.5. Expected: a whole number"),
        ({"type": "string", "len_max": "9"}, "len_max is '9'"),
        ({"type": "string", "match": ["a"]}, "match is ['a']. Expected: text"),
        ({"type": "string", "match_all": ["a"]}, "match_all is ['a']"),
        ({"type": "string", "match_none": [{"err": "no"}]}, "match_none is [{'err': 'no'}]"),
        ({"type": "string", "match_any": ["a"]}, "match_any is ['a']"),
        ({"type": "string", "match_any": {"patterns": "a"}}, "match_any is {'patterns': 'a'}"),
        ({"type": "foreign", "on_delete": "forget"}, "on_delete is 'forget'. Expected: restrict, cascade or"),
        ({"type": "foreign", "on_delete": ["null"]}, "on_delete is ['null']"),
        ({"type": "string", "custom_validator": "f"}, "custom_validator is 'f'. Expected: none"),
        (
            {"type": "record", "fields": [], "mutually_exclusive_subsets": [1]},
            "mutually_exclusive_subsets is",
        ),
        ({"type": "boolean", "one_of": [True]}, "a field of type boolean cannot have 'one_of'"),
        (
            {"type": "string", "between": [1, 2]},
            "cannot have 'between'. Expected: one of type integer or num",
        ),
        ({"type": "number", "match": "a"}, "a field of type number cannot have 'match'"),
        ({"type": "array", "elements": {"type": "string", "one_of": 1}}, "Schema.a.elements: one_of is 1"),
        (
            {"type": "map", "keys": {"type": "string"}, "values": {"type": "string", "len_eq": "1"}},
            "a.values",
        ),
        ({"type": "record", "fields": [{"b": {"type": "string", "uuid": "yes"}}]}, "Schema.a.b: uuid is"),
    ],
)
def test_what_kong_does_not_start_with_is_named(definition: dict[str, Any], says: str) -> None:
    """Once, all of these were loaded."""
    [problem] = schema_problems([{"a": definition}])
    assert says in problem
