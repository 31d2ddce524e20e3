"""What exceptions say is cut before anything else is done with it, and is had from any exception."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import pytest

from coprocess.error_text import LONGEST_TRACEBACK, format_error, is_not_ours, text_of

HUGE = "x" * 2**24


class Wild(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


class WildRepr:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - any is meant
        return caught


def chain(length: int) -> BaseException:
    error = ValueError("root")
    for number in range(length):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    return error


def group(depth: int) -> BaseException:
    error: Exception = ValueError("leaf")
    for _ in range(depth):
        error = ExceptionGroup("both", [error, error])
    return error


def noted() -> BaseException:
    error = ValueError("noted")
    error.__notes__ = [HUGE, *["again"] * 100_000]
    return error


def recursion() -> BaseException:
    def recurse(depth: int) -> None:
        if depth:
            recurse(depth - 1)
        raise ValueError("deep")

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(6000)
    try:
        recurse(4000)
    except ValueError as error:
        return error
    finally:
        sys.setrecursionlimit(limit)
    raise AssertionError


def one_long_line() -> BaseException:
    try:
        eval(compile("1;" * 20_000 + "1/0", "x" * 20_000, "exec"))  # noqa: S307 - of a constant
    except ZeroDivisionError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ValueError(HUGE), "ValueError: xxx"),
        (lambda: ValueError({"a": HUGE}, [HUGE] * 1000), "ValueError: ({'a': 'xxx"),
        (lambda: KeyError(HUGE), "KeyError: 'xxx"),
        (lambda: ValueError(HUGE.encode()), "ValueError: b'xxx"),
        (lambda: OSError(5, HUGE, HUGE), "OSError: [Errno 5] xxx"),
        (lambda: ImportError(HUGE), "ImportError: xxx"),
        (lambda: SyntaxError(HUGE, ("a.py", 1, 1, HUGE)), "SyntaxError: xxx"),
        (lambda: ValueError(10**100_000), "ValueError: <int of 332193 bits>"),
        (lambda: type(HUGE, (Exception,), {})("text"), ": text"),
        (lambda: ValueError(*range(10**6)), "ValueError: (0, 1, 2, "),
        (lambda: ExceptionGroup("many", [ValueError(str(n)) for n in range(100_000)]), "and 99997 more"),
        (lambda: group(500), "ExceptionGroup: both (2 sub-exceptions)"),
        (lambda: chain(100_000), "ValueError: 99999"),
        (noted, "99996 notes more"),
        (recursion, "frames more"),
        (one_long_line, "ZeroDivisionError: division by zero"),
        (Wild, "Wild: (its text cannot be had)"),
        (lambda: ValueError(WildRepr()), "ValueError: <WildRepr, whose repr raised KeyboardInterrupt>"),
    ],
)
def test_a_traceback_is_cut(make: Callable[[], BaseException], told: str) -> None:
    text = format_error(raised(make()))
    assert len(text) < LONGEST_TRACEBACK + 100
    assert told in text
    assert len(text_of(make(), 100)) < 200


def test_what_is_small_is_as_python_has_it() -> None:
    def fails() -> None:
        try:
            dict[str, int]()["absent"]
        except KeyError as error:
            error.add_note("a note")
            raise RuntimeError("two\nlines") from error

    for code in (fails, lambda: nmae, lambda: sys.exc_ifno, lambda: compile("a b", "f", "exec")):  # type: ignore[name-defined, attr-defined]  # noqa: F821 - meant
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any is meant
            code()
        assert format_error(caught.value) == "".join(traceback.format_exception(caught.value)).rstrip("\n")


def test_frames_of_files_that_are_not_shown_are_left_out() -> None:
    with pytest.raises(TypeError) as caught:
        text_of(None)  # type: ignore[arg-type]  # meant
    assert "error_text.py" in format_error(caught.value)
    assert "in text_of" not in format_error(caught.value, is_not_ours)
    assert "text_of(None)" in format_error(caught.value, is_not_ours)
