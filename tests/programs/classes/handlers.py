"""Classes whose modules others look up by name: dataclasses, typing, pickle."""

from __future__ import annotations

import pickle
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, get_type_hints

from coprocess import Pre, Request


class Colour(Enum):
    RED = 1


@dataclass
class Point:
    x: int
    y: int = 0
    _: KW_ONLY
    colour: Colour = Colour.RED
    origin: ClassVar[str] = "here"


class Pair(NamedTuple):
    left: Point
    right: Point


assert get_type_hints(Pair) == {"left": Point, "right": Point}


@Pre
def pickles(request: Request) -> None:
    pair = Pair(Point(1), Point(2, colour=Colour.RED))
    assert pickle.loads(pickle.dumps(pair)) == pair
    request.headers["X-Module"] = Point.__module__
