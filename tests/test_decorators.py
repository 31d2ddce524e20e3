"""The decorators themselves: what they refuse, and whom they tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coprocess import CustomKeyCheck, Event, Post, PostKeyAuth, Pre, Reply, Response
from coprocess.api.declarations import MARK, collecting
from coprocess.api.functions import source_of
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError
from tests.conftest import Load
from tests.loading import good, problem_of, reply_of, set_headers, write
from tests.objects import table_of

HERE = Path(__file__)


def handler(request: Any) -> None: ...


DECORATORS: dict[str, Any] = {
    "Pre": Pre,
    "CustomKeyCheck": CustomKeyCheck,
    "PostKeyAuth": PostKeyAuth,
    "Post": Post,
    "Response": Response,
    "Event": Event,
}


@pytest.mark.parametrize("name", DECORATORS)
def test_bare_and_with_arguments_both_return_the_function(name: str) -> None:
    def function() -> None: ...

    with collecting() as declarations:
        assert DECORATORS[name](function) is function
        assert DECORATORS[name](name="other")(function) is function

    assert [declaration.name for declaration in declarations] == ["function", "other"]
    assert {declaration.types for declaration in declarations} == {(HookType[name],)}


@pytest.mark.parametrize("name", ["Response", "Event"])
def test_type_and_decorator_are_one(load: Load, tmp_path: Path, name: str) -> None:
    """`@Response`, and `response: Response`, also where annotations are not strings."""
    code = f"""
from coprocess import {name}

@{name}
def bare(value: {name} = None): pass

@{name}()
def called(value: {name} = None): pass

@{name}(name="named")
def other(value: "{name} | None" = None): pass

assert isinstance({name}, type)
"""
    table = good(load(write(tmp_path, {"handlers.py": code})))

    assert sorted(hook.name for hook in table) == ["bare", "called", "named"]


def test_types_that_are_decorators_can_be_derived_from() -> None:
    class Mine(Event):
        pass

    assert Mine(a=1) == {"a": 1}


def test_repr_of_decorators() -> None:
    assert repr(Pre) == "coprocess.Pre"


def test_source_is_where_the_function_is_written() -> None:
    source = source_of(handler)

    assert source.path == HERE
    assert HERE.read_text().splitlines()[source.line - 1] == "def handler(request: Any) -> None: ..."
    assert str(source) == f"{HERE}:{source.line}"


def test_source_of_what_is_written_in_no_python() -> None:
    assert str(source_of(len)) == "unknown:0"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timeout": 0}, "timeout=0. Expected: seconds, more than 0"),
        ({"timeout": -1.5}, "timeout=-1.5. Expected: seconds, more than 0"),
        ({"timeout": float("nan")}, "timeout=nan. Expected: seconds, more than 0"),
        ({"timeout": float("inf")}, "timeout=inf. Expected: seconds, more than 0"),
        ({"timeout": "5"}, "timeout='5'. Expected: seconds, more than 0"),
        ({"timeout": True}, "timeout=True. Expected: seconds, more than 0"),
        ({"concurrency": 0}, "concurrency=0. Expected: a whole number from 1 on"),
        ({"concurrency": 1.5}, "concurrency=1.5. Expected: a whole number from 1 on"),
        ({"concurrency": True}, "concurrency=True. Expected: a whole number from 1 on"),
        ({"on_error": "ignore"}, 'on_error=\'ignore\'. Expected: "closed" or "open"'),
        ({"api_id": ""}, "api_id=''. Expected: an API's id"),
        ({"api_id": 5}, "api_id=5. Expected: an API's id"),
    ],
)
def test_wrong_options_name_the_place_and_what_was_expected(options: dict[str, Any], text: str) -> None:
    with pytest.raises(HandlerError) as caught:
        Pre(**options)(handler)

    assert str(caught.value) == f"{source_of(handler)}: @Pre: {text}"


@pytest.mark.parametrize("name", ["", 5])
def test_name_is_text(name: Any) -> None:
    with pytest.raises(HandlerError, match=r'handler\(\) has no name. Expected: name="…"'):
        Pre(name=name)(handler)


def test_instance_needs_a_name() -> None:
    class Handler:
        def __call__(self) -> None: ...

    with pytest.raises(HandlerError, match=r'an instance of Handler has no name. Expected: name="…"'):
        Pre(Handler())


def test_key_check_that_fails_open_would_let_everybody_in() -> None:
    with pytest.raises(HandlerError, match="would let everybody in"):
        CustomKeyCheck(on_error="open")(handler)
    assert CustomKeyCheck(on_error="closed")(handler) is handler


@pytest.mark.parametrize("wrong", ["class Wrong: pass", "Wrong = 5", "Wrong = None.__class__"])
def test_what_is_no_handler_is_refused_where_the_decorator_stands(
    load: Load, tmp_path: Path, wrong: str
) -> None:
    code = f"from coprocess import Pre\n\n{wrong}\n\nPre(Wrong)\n"

    text = problem_of(load(write(tmp_path, {"handlers.py": code})))

    assert text.startswith(f"{tmp_path}/handlers.py:5: @Pre is on ")
    assert text.endswith("Expected: a function, or an instance with __call__")


def test_decorated_class_names_the_line_of_the_class(load: Load, tmp_path: Path) -> None:
    code = "from coprocess import Pre\n\n@Pre(name='x')\nclass Wrong: pass\n"

    text = problem_of(load(write(tmp_path, {"handlers.py": code})))

    assert text.startswith((f"{tmp_path}/handlers.py:3: @Pre", f"{tmp_path}/handlers.py:4: @Pre"))


def test_without_a_loader_the_function_knows_what_was_declared() -> None:
    def library_handler() -> None: ...

    Pre(library_handler)
    Post(name="other")(library_handler)

    assert [declaration.name for declaration in vars(library_handler)[MARK]] == ["library_handler", "other"]


def test_the_loader_is_told_and_the_function_left_clean() -> None:
    def own() -> None: ...

    table = table_of(lambda: Pre(own))

    assert [hook.name for hook in table] == ["own"]
    assert MARK not in vars(own)


LIBRARY = """
from coprocess import Pre

@Pre
def library_hook(request):
    request.headers["X-From"] = "library"

def undeclared(request):
    request.headers["X-From"] = "undeclared"

def register(function, name):
    Pre(name=name)(function)
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """An installed library with handlers."""
    folder = write(tmp_path / "site", {"handler_library.py": LIBRARY})
    monkeypatch.syspath_prepend(folder)

    def forget() -> None:
        import sys

        sys.modules.pop("handler_library", None)

    monkeypatch.setattr("sys.dont_write_bytecode", True)
    forget()
    return forget


@pytest.mark.usefixtures("library")
def test_handler_from_an_installed_library_is_found_at_every_load(load: Load, tmp_path: Path) -> None:
    folder = write(tmp_path / "handlers", {"handlers.py": "from handler_library import library_hook\n"})

    for _ in range(3):
        table = good(load(folder))
        assert set_headers(reply_of(table, "library_hook")) == {"X-From": "library"}


@pytest.mark.usefixtures("library")
def test_library_that_is_imported_but_not_its_handler_declares_nothing(load: Load, tmp_path: Path) -> None:
    """Else a hook would be there after the first load, and gone after the next."""
    folder = write(tmp_path / "handlers", {"handlers.py": "import handler_library\n"})

    assert [len(good(load(folder))) for _ in range(2)] == [0, 0]


@pytest.mark.usefixtures("library")
def test_library_function_that_a_handler_module_declares(load: Load, tmp_path: Path) -> None:
    """What is declared belongs to the module that does it: an edit of it leaves nothing behind."""
    code = "from coprocess import Pre\nimport handler_library\nfrom handler_library import undeclared\n"
    folder = write(tmp_path / "handlers", {"handlers.py": f"{code}Pre(name='before')(undeclared)\n"})
    first = good(load(folder))
    write(folder, {"handlers.py": f"{code}Pre(name='after')(undeclared)\n"})

    second = good(load(folder))

    assert [hook.name for hook in first] == ["before"]
    assert [hook.name for hook in second] == ["after"]
    assert set_headers(reply_of(second, "after")) == {"X-From": "undeclared"}


@pytest.mark.usefixtures("library")
def test_library_that_declares_for_its_caller(load: Load, tmp_path: Path) -> None:
    code = "from handler_library import register\nregister(lambda request: None, 'by_library')\n"
    folder = write(tmp_path / "handlers", {"handlers.py": code})

    for _ in range(2):
        assert [hook.name for hook in good(load(folder))] == ["by_library"]


@pytest.mark.usefixtures("library")
def test_one_library_handler_in_several_modules_is_one_hook(load: Load, tmp_path: Path) -> None:
    code = "from handler_library import library_hook\n"
    folder = write(tmp_path / "handlers", {"one.py": code, "two.py": code})
    other = write(tmp_path / "more", {"three.py": code})

    assert [hook.name for hook in good(load(folder, other))] == ["library_hook"]


@pytest.mark.parametrize("uses", [True, False])
def test_response_that_says_whether_it_uses_the_body_decorates(uses: bool) -> None:
    @Response(body=uses)
    def stamp(response: Response) -> None:
        pass

    assert callable(stamp)
    assert isinstance(Response(body="text"), Reply)


WRAPS = """
import functools
from coprocess import App, Pre

app = App()

def guard(function):
    @functools.wraps
    def inner(request):
        return function(request)
    return inner
"""


@pytest.mark.parametrize(
    "handler",
    [
        "@Pre\n@guard\ndef handle(request): pass\n",
        "@guard\n@Pre\ndef handle(request): pass\n",
        "@Pre\ndef handle(request): pass\n@app.resource\n@guard\ndef check(request): pass\n",
        "@Pre\ndef handle(request): pass\n@app.before\n@guard\ndef check(request): pass\n",
    ],
)
def test_wraps_without_its_argument_is_told_with_the_users_own_place(
    load: Load, tmp_path: Path, handler: str
) -> None:
    loaded = load(write(tmp_path, {"handlers.py": WRAPS + handler}))

    problem = str(loaded.problems[0])
    assert "handlers.py:8: inner() stands under @functools.wraps without its argument" in problem
    assert "functools.py" not in problem
    assert len(loaded.table) == 0
