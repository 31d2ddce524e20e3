"""What belongs to the whole process, and is put back where handler code changes it while it loads.

Handler files were written for processes of their own: they set up logging, change the folder, handle signals.
Here that would silence the service, or keep it from reloading and stopping.
"""

from __future__ import annotations

import builtins
import errno
import faulthandler
import gc
import locale
import logging
import operator
import os
import re
import resource
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coprocess import switching
from coprocess.loading import foreign_patches
from coprocess.loading.log_state import LogState


@dataclass(frozen=True, slots=True)
class _Part:
    #: What it is, for people.
    name: str
    read: Callable[[], Any]
    #: Gets what was there before. None: it is not ours; it stays as it is, and is told.
    put_back: Callable[[Any], None] | None
    #: Whether what was there before, and what is there now, are different.
    differ: Callable[[Any, Any], bool] = operator.ne


@contextmanager
def kept() -> Iterator[list[str]]:
    """Put back, at the end, what the code within changed. The list then has a sentence for each change."""
    told: list[str] = []
    with _root_has_a_handler():
        log_before = LogState()
        before = [part.read() for part in _PARTS]
        foreign_patches.refuse()
        try:
            yield told
        finally:
            for part, was in zip(_PARTS, before, strict=True):
                told += _mend(part, was)
            told += [f"changes {what}, which is the service's: put back" for what in log_before.mend()]
            told += foreign_patches.take_refusals()


def _mend(part: _Part, was: Any) -> Iterator[str]:
    if not part.differ(was, part.read()):
        return
    if part.put_back is None:
        yield f"changes {part.name}, for the whole process"
        return
    with suppress(OSError, ValueError):  # As where the folder from before is gone.
        part.put_back(was)
    done = "it cannot be put back" if part.differ(was, part.read()) else "put back"
    yield f"changes {part.name}, which is the service's: {done}"


@contextmanager
def _root_has_a_handler() -> Iterator[None]:
    """In the service it always has; where it has none, `basicConfig` would do more than it does there."""
    root = logging.getLogger()
    stand_in = None if root.handlers else logging.lastResort
    if stand_in is not None:
        root.addHandler(stand_in)
    try:
        yield
    finally:
        if stand_in is not None:
            root.removeHandler(stand_in)


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


# What stops and reloads the service, ends its children, and what a peer that is gone would end it with.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE)


def _signal_handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _set_signal_handlers(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _take_from_faulthandler() -> bool:
    """Whether the faulthandler had signals of ours: it takes them where `getsignal` does not see it."""
    # It says whether it had it; its stub does not know.
    had = [faulthandler.unregister(number) for number in _SIGNALS]  # type: ignore[func-returns-value]
    return any(had)


def _umask() -> int | None:
    """Read without setting it, which would be seen by other threads. None: not to be had here."""
    try:
        found = re.search(r"^Umask:\s*([0-7]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1], 8) if found else None


_LIMITS = (
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_AS,
    resource.RLIMIT_DATA,
    resource.RLIMIT_STACK,
    resource.RLIMIT_CPU,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NPROC,
)


def _limits() -> list[float]:
    """The soft limits."""
    found = (resource.getrlimit(each)[0] for each in _LIMITS)
    return [float("inf") if limit == resource.RLIM_INFINITY else limit for limit in found]


def _is_lower(before: list[float], now: list[float]) -> bool:
    return any(new < old for new, old in zip(now, before, strict=True))


def _raise_limits(before: list[float]) -> None:
    for each, limit in zip(_LIMITS, before, strict=True):
        soft, hard = resource.getrlimit(each)
        if soft != resource.RLIM_INFINITY and soft < limit:
            wanted = hard if limit == float("inf") else int(limit)
            resource.setrlimit(each, (wanted, hard))


def _strict_warnings() -> list[Any]:
    """Filters that make an exception of a warning: in the service's code, too."""
    return [each for each in warnings.filters if each[0] == "error"]


def _drop_strict_warnings(before: list[Any]) -> None:
    good = [each for each in warnings.filters if each[0] != "error" or each in before]
    # By its own functions, which also forget what was decided by the old filters.
    warnings.resetwarnings()
    for action, message, category, module, line in reversed(good):
        warnings.simplefilter(action, category, line)  # type: ignore[arg-type]  # it was one already
        warnings.filters[0] = (action, message, category, module, line)  # type: ignore[index]  # it is a list


def _settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.upper().startswith("COPROCESS_")}


def _set_settings(before: dict[str, str]) -> None:
    for name in _settings():
        if name not in before:
            del os.environ[name]
    os.environ.update(before)


def _set_working_folder(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _set_blocked(signals: set[signal.Signals]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, signals)


# The signals of these, too, end a process that handles none of them.
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


def _timers() -> list[bool]:
    return [signal.getitimer(each)[0] > 0 for each in _TIMERS]


def _stop_timers(were_running: list[bool]) -> None:
    for each, was_running in zip(_TIMERS, were_running, strict=True):
        if not was_running:
            signal.setitimer(each, 0)


def _set_stack_size(size: int) -> None:
    threading.stack_size(size)


def _garbage_collection() -> tuple[bool, tuple[int, int, int], int]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug()


def _collect_garbage(before: tuple[bool, tuple[int, int, int], int]) -> None:
    was_on, threshold, debug = before
    gc.set_threshold(*threshold)
    gc.set_debug(debug)
    if was_on:
        gc.enable()
    else:
        gc.disable()


def _builtins_differ(before: dict[str, Any], now: dict[str, Any]) -> bool:
    # What is added, as gettext's _, does no harm.
    return any(now.get(name) is not value for name, value in before.items())


def _standard_descriptors() -> list[bool]:
    """Which of input, output and error are open."""
    return [_is_open(number) for number in range(3)]


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def _open_descriptors(before: list[bool]) -> None:
    # Else the next socket would get the number, and who writes there would write to a client.
    for number, was_open in enumerate(before):
        if was_open and not _is_open(number):
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)
            if nothing != number:
                os.close(nothing)


def _set_umask(umask: int | None) -> None:
    if umask is not None:
        os.umask(umask)


def _part_of(module: Any, name: str, *, ours: bool) -> _Part:
    """An attribute of a module."""
    return _Part(
        f"{module.__name__}.{name}",
        lambda: getattr(module, name),
        (lambda was: setattr(module, name, was)) if ours else None,
        operator.is_not,
    )


_PARTS = (
    _Part("the working folder (os.chdir)", _working_folder, _set_working_folder),
    _Part("signal handlers", _signal_handlers, _set_signal_handlers),
    _Part("which signals are blocked", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()), _set_blocked),
    _Part("signals by faulthandler.register", _take_from_faulthandler, lambda was: None),
    _Part("the alarm timer (signal.alarm, signal.setitimer)", _timers, _stop_timers),
    _Part("standard input, output or error (os.close)", _standard_descriptors, _open_descriptors),
    _part_of(sys, "stdout", ours=True),
    _part_of(sys, "stderr", ours=True),
    _Part("the switch interval of threads", switching.usual_s, switching.set_usual_s),
    _Part("the stack size of threads", threading.stack_size, _set_stack_size),
    _Part("whether garbage is collected (gc.disable)", _garbage_collection, _collect_garbage),
    # To raise it may be needed, and harms nobody.
    _Part("the limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit, operator.gt),
    _Part("builtins", lambda: dict(vars(builtins)), vars(builtins).update, _builtins_differ),
    _Part("the umask", _umask, _set_umask),
    _Part("resource limits", _limits, _raise_limits, _is_lower),
    _Part("which warnings are exceptions", _strict_warnings, _drop_strict_warnings),
    _Part("variables COPROCESS_*", _settings, _set_settings),
    # What is not ours may be meant.
    _Part("the locale", lambda: locale.setlocale(locale.LC_ALL), None),
    _Part("the default timeout of sockets", socket.getdefaulttimeout, None),
    _part_of(sys, "excepthook", ours=False),
    _part_of(threading, "excepthook", ours=False),
)
