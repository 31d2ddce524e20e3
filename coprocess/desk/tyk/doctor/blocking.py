"""The rule that async handlers do not block."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.doctor.source import Function, Handler

_VERBS = ("get", "post", "put", "patch", "delete", "head", "options", "request")
_STORE = ("get", "get_text", "set", "delete", "exists", "increment", "ping")
#: What blocks → what does the same and does not.
_BLOCKING = {
    "time.sleep": "await asyncio.sleep(…)",
    "urllib.request.urlopen": "an async HTTP client, or await asyncio.to_thread(…)",
    "os.system": "await asyncio.create_subprocess_shell(…)",
    "socket.create_connection": "await asyncio.open_connection(…)",
    "socket.gethostbyname": "await loop.getaddrinfo(…)",
    "socket.getaddrinfo": "await loop.getaddrinfo(…)",
    **{
        f"subprocess.{name}": "await asyncio.create_subprocess_exec(…)"
        for name in ("run", "call", "check_call", "check_output", "getoutput")
    },
    **{f"requests.{verb}": "an async HTTP client, or await asyncio.to_thread(…)" for verb in _VERBS},
    **{f"httpx.{verb}": "httpx.AsyncClient" for verb in _VERBS},
    **{f"coprocess.store.{name}": f"await store.aio.{name}(…)" for name in _STORE},
    **{f"gateway.TykGateway.{name}": "await store.aio of coprocess" for name in ("store_data", "get_data")},
}


def check_blocking(handler: Handler) -> Iterator[FileFinding]:
    """Calls that hold up the event loop, in the handler and in its module's functions that it calls."""
    for function in handler.with_helpers():
        for node in _own_nodes(function):
            if isinstance(node, ast.Call) and (better := _BLOCKING.get(handler.origin(node.func))):
                yield handler.finding(
                    Severity.WARNING,
                    "handler-blocking-async",
                    node,
                    f"{handler.hook.name} is async and calls {handler.origin(node.func)}, which blocks.",
                    "While it waits, no other async handler of this service gets on.",
                    f"Use {better}, or make the handler a plain function: those run in threads.",
                )


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """Without functions within: those may well run in a thread."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))
