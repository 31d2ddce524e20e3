"""What plugins call `kong`: Kong's PDK, with the names checked, each call a question to Kong.

The names are those of Kong 3.9 and of kong-pdk 0.36. `Kong.call` asks for what has no name here.
"""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from coprocess.gateways.kong.answers import PDKException, StepFailed
from coprocess.gateways.kong.methods import Method

Ask = Callable[[Method, tuple[Any, ...]], Any]

#: So many names that no function has are known, with the nearest: to find that one takes long.
_MOST_UNKNOWN: Final = 256
LOG_LEVELS: Final = "alert crit debug deprecation emerg err info notice warn"
#: What Python calls Kong's levels. Kong does not know them, and loses the line: most often it is that of an
#: `except`, and the request shall not fail for it.
PYTHONS_LEVELS: Final = {
    "error": "err",
    "exception": "err",
    "warning": "warn",
    "critical": "crit",
    "fatal": "crit",
}
#: By namespace, the functions in it.
FUNCTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    name: tuple(functions.split())
    for name, functions in {
        "kong": "version",
        "kong.cache": "get invalidate",
        "kong.client": (
            "authenticate get_consumer get_consumer_groups get_credential get_forwarded_ip "
            "get_forwarded_port get_ip get_port get_protocol load_consumer set_authenticated_consumer_group "
            "set_authenticated_consumer_groups"
        ),
        "kong.client.tls": (
            "disable_session_reuse get_full_client_certificate_chain request_client_certificate "
            "set_client_verify"
        ),
        "kong.cluster": "get_id",
        "kong.ctx.shared": "get set",
        "kong.db": "",
        "kong.db.routes": "select",
        "kong.enterprise_edition.jwe": "decode decrypt encrypt",
        "kong.ip": "is_trusted",
        "kong.jwe": "decode decrypt encrypt",
        "kong.log": f"{LOG_LEVELS} inspect serialize set_serialize_value",
        "kong.log.inspect": "off on",
        "kong.nginx": (
            "get_ctx get_statistics get_subsystem get_tls1_version_str get_var req_start_time set_ctx"
        ),
        "kong.nginx.shared": "get set",
        "kong.node": "get_hostname get_id get_memory_stats",
        "kong.plugin": "get_id",
        "kong.request": (
            "get_body get_forwarded_host get_forwarded_path get_forwarded_port get_forwarded_prefix "
            "get_forwarded_scheme get_header get_headers get_host get_http_version get_method get_path "
            "get_path_with_query get_port get_query get_query_arg get_raw_body get_raw_path get_raw_query "
            "get_scheme get_start_time get_uri_captures"
        ),
        "kong.response": (
            "add_header clear_header error exit get_header get_headers get_raw_body get_source get_status "
            "set_header set_headers set_raw_body set_status"
        ),
        "kong.router": "get_route get_service",
        "kong.service": (
            "set_retries set_target set_target_retry_callback set_timeouts set_tls_cert_key set_tls_verify "
            "set_tls_verify_depth set_tls_verify_store set_upstream"
        ),
        "kong.service.request": (
            "add_header clear_header disable_tls enable_buffering set_body set_header set_headers set_method "
            "set_path set_query set_raw_body set_raw_query set_scheme"
        ),
        "kong.service.response": "get_body get_header get_headers get_raw_body get_status",
        "kong.telemetry": "log",
        "kong.vault": "flush get is_reference parse_reference update",
        "kong.worker_events": "post",
    }.items()
}
#: All methods, as they are on the wire. A namespace may be called, too: `kong.log(…)`.
METHODS: Final = frozenset(
    f"{namespace}.{name}" for namespace, functions in FUNCTIONS.items() for name in functions
) | {"kong.log"}


def _is_none(namespace: object) -> Any:
    raise AttributeError  # Then `__getattr__` says what there is.


class Namespace(tuple[Ask]):
    """A part of the PDK. Its functions are methods of the classes that `kong_class` makes.

    It is a tuple of one, what asks Kong, and its parts are properties that make one tuple of the other: no
    Python runs for that, and each event does it some times.
    """

    __slots__ = ()

    _path = ""

    # Names of tuples, and none of the PDK.
    count = index = property(_is_none)

    def __getattr__(self, name: str) -> Any:
        # Python's own names are asked for by Python, as by its tracebacks: no nearest is looked for.
        raise AttributeError(name if name.startswith("__") else unknown_name(self._path, name))

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except AttributeError:
            has_set = "set" in FUNCTIONS.get(self._path, ())
            hint = f". Expected: {self._path}.set({name!r}, …)" if has_set else ""
            raise AttributeError(f"{self._path}.{name} cannot be set{hint}") from None

    def __repr__(self) -> str:
        return f"<{self._path}>"


class _OfAnnotations(type):
    """The class of `kong`, which plugins import for annotations, may be asked for its parts, too."""

    def __getattribute__(cls, name: str) -> Any:
        found = super().__getattribute__(name)
        if isinstance(found, property) and isinstance(found.fget, type):
            return found.fget((_outside,))
        return found


def _outside(method: Method, arguments: tuple[Any, ...]) -> Any:
    """A call of the class that plugins import for annotations, as if it were the `kong` of a phase.

    kong-pdk does nothing then; plugins log so while they are imported. Raises RuntimeError for all else.
    """
    name = method.name.removeprefix("kong.log").removeprefix(".")
    if method.name.startswith("kong.log") and name in ("", *LOG_LEVELS.split()):
        level = _LEVELS.get(name, logging.INFO)
        logging.getLogger("handler.output").log(level, "%s", " ".join(map(str, arguments)))
        return None
    raise RuntimeError(
        f"{method.name} is called on the class for annotations, and not on the kong of a phase. "
        "Expected: the kong that the phase is called with, passed on"
    )


_LEVELS: Final = {
    "debug": logging.DEBUG,
    "warn": logging.WARNING,
    "deprecation": logging.WARNING,
    **dict.fromkeys(("err", "crit", "alert", "emerg"), logging.ERROR),
}


@functools.cache
def kong_class(style: str) -> Any:
    """The class of `kong`, made of a tuple of what asks Kong. `style`: `lua` gives (value, err), `python` the
    value.

    `async` is as `python`, with awaitables.
    """
    return _make("kong", style)


def _make(path: str, style: str) -> Any:
    names: dict[str, Any] = {"_path": path}
    for name in FUNCTIONS.get(path, ()):
        names[name] = _function(f"{path}.{name}", style)
    if path == "kong.log":
        names.update({name: names[level] for name, level in PYTHONS_LEVELS.items()})
    if path in METHODS:
        names["__call__"] = _function(path, style)
    if path == "kong":
        names["call"] = _UNCHECKED[style]
        if style == "async":
            names["aio"] = property(lambda self: self)
    inner = {each[len(path) + 1 :].split(".")[0] for each in FUNCTIONS if each.startswith(f"{path}.")}
    for name in inner - set(names):
        names[name] = property(_make(f"{path}.{name}", style))
    if path == "kong":
        # Has a dict: some plugins put things of their own there.
        return _OfAnnotations(path, (Namespace,), names)
    return type(path, (Namespace,), {**names, "__slots__": ()})


def _function(name: str, style: str) -> Callable[..., Any]:
    method = Method(name)
    call = _made(method, "python" if style == "lua" and method.is_terminal else style)
    if name == "kong.log" or name.startswith("kong.log."):
        call = _of_text(call)
    call.__name__ = name.rpartition(".")[2]
    call.__qualname__ = name
    call.__doc__ = f"Kong's `{name}`. Arguments are passed by position."
    return call


def _made(method: Method, style: str) -> Callable[..., Any]:
    if style == "python":

        def call(self: Namespace, *args: Any) -> Any:
            try:
                return self[0](method, args)
            except StepFailed as error:
                raise PDKException(f"exception from {method.name}: {error}") from None

    elif style == "async":

        def call(self: Namespace, *args: Any) -> Any:
            return self[0](method, args)  # As `AwaitedCalls` does it.

    else:

        def call(self: Namespace, *args: Any) -> Any:
            try:
                return self[0](method, args), None
            except StepFailed as error:
                return None, str(error)

    return call


def _of_text(call: Callable[..., Any]) -> Callable[..., Any]:
    """As kong-pdk has it: Kong's log takes text."""

    def called(self: Namespace, *args: Any) -> Any:
        return call(self, *(each if type(each) in (str, int, list, dict) else str(each) for each in args))

    return called


def _call_lua(self: Namespace, method: str, *args: Any) -> Any:
    """Have Kong run any function of its `kong`; of an unknown one, it gives None."""
    try:
        return self[0](Method(method), args), None
    except StepFailed as error:
        return None, str(error)


def _call_python(self: Namespace, method: str, *args: Any) -> Any:
    """Have Kong run any function of its `kong`; of an unknown one, it gives None."""
    return self[0](Method(method), args)


_UNCHECKED = {"lua": _call_lua, "python": _call_python, "async": _call_python}


@functools.lru_cache(_MOST_UNKNOWN)
def unknown_name(path: str, name: str) -> str:
    """What is said of a name that is no function of the namespace `path`."""
    wanted = f"{path}.{name}"
    known = [*METHODS, *FUNCTIONS]
    near = difflib.get_close_matches(wanted, known, 1, 0.6)
    of_that_name = [each for each in known if each.rpartition(".")[2] == name]
    nearest = of_that_name[0] if len(of_that_name) == 1 else near[0] if near else ""
    hint = f"Did you mean {nearest}?" if nearest else f"Expected: one of {_listed(path)}"
    return f"{wanted} is no function of Kong's PDK. {hint}"


def _listed(path: str) -> str:
    inner = sorted({each[len(path) + 1 :].split(".")[0] for each in FUNCTIONS if each.startswith(f"{path}.")})
    return ", ".join([*FUNCTIONS.get(path, ()), *inner]) or "the names that Kong documents"
