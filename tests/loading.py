"""Handler programs for tests, and calls of what they declare."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coprocess.api.moments import HookType
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.wire import Object
from coprocess.loading.hooks import Hook, HookTable
from coprocess.loading.loaded import Loaded
from tests.objects import event_json, make_object, run_sync

#: Each folder within is what a user might have, for one purpose.
PROGRAMS = Path(__file__).parent / "programs"


def program(name: str) -> Path:
    """The folder of a program; it must exist."""
    folder = PROGRAMS / name
    assert folder.is_dir()
    return folder


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write files, by their path in `folder`, and give the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def good(loaded: Loaded) -> HookTable:
    """The table of what was loaded, without a problem."""
    assert not loaded.problems, "\n".join(problem.traceback or str(problem) for problem in loaded.problems)
    return loaded.table


def problem_of(loaded: Loaded) -> str:
    """The text of the only problem."""
    assert len(loaded.problems) == 1, [str(problem) for problem in loaded.problems]
    return str(loaded.problems[0])


def hook_names(table: HookTable) -> list[str]:
    return sorted(f"{hook.type.name} {hook.name}" for hook in table)


def the_hook(table: HookTable, name: str, hook_type: HookType | None = None) -> Hook:
    """The only hook of that name, and type if one is given."""
    found = [hook for hook in table if hook.name == name and hook_type in (None, hook.type)]
    assert len(found) == 1, found
    return found[0]


def global_of(hook: Hook, name: str) -> Any:
    """What the module of a hook's function calls `name`."""
    return hook.function.__globals__[name]


def run(table: HookTable, message: Object, *, full_reply: bool = True) -> Object:
    """The reply to `message`, whether its handler is sync or async. Raises HandlerFailed, UnknownHook."""
    call = Dispatcher(table, full_reply=full_reply).open_dispatch(message.SerializeToString())
    return Object.FromString(asyncio.run(call.run_async()) if call.hook.is_async else run_sync(call))


def reply_of(
    table: HookTable,
    name: str,
    hook_type: HookType = HookType.Pre,
    *,
    full_reply: bool = True,
    **given: Any,
) -> Object:
    """As `run`, for an Object that `make_object` makes."""
    return run(table, make_object(hook_type, name, **given), full_reply=full_reply)


def set_headers(reply: Object) -> dict[str, str]:
    return dict(reply.request.set_headers)


def send_event(table: HookTable, handler: str, **changes: Any) -> None:
    """Run the handler of an event as `make_payload` makes it."""
    from coprocess.gateways.tyk.wire import Event

    payload = event_json(handler=handler, **changes)
    call = Dispatcher(table).open_event(Event(payload=payload).SerializeToString())
    if call.hook.is_async:
        asyncio.run(call.run_async())
    else:
        run_sync(call)
