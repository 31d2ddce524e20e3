"""What the service keeps of each hook while it runs: who runs, who waits, and what it counted."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coprocess.loading.hooks import Hook

if TYPE_CHECKING:
    import asyncio

    from coprocess.runtime.call import Call
    from coprocess.runtime.loop import LoopThread
    from coprocess.transport.engine import Rpc

#: Upper bounds, in seconds, of the duration histogram.
DURATION_BUCKETS_S = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)


#: Type, name and version of a hook; it stays the same over reloads.
HookLabel = tuple[str, str, str]
#: The same, and the API of a call.
CallLabel = tuple[str, str, str, str]


def label_of(hook: Hook) -> HookLabel:
    return (hook.type.name, hook.name, hook.version)


#: APIs whose calls are counted apart, and pairs of a hook and an API; all further calls of a hook are counted
#: together.
MAX_APIS = 200
MAX_PAIRS = 2000
OTHER_API = "other"
_LONGEST_API_ID = 64


class ApiLabels:
    """Bounds what API ids cost as labels: they are any text that came with a call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._apis: set[str] = set()
        self._pairs: set[CallLabel] = set()

    def label(self, hook: HookLabel, api_id: str) -> str:
        """The label for calls of that API: always the same for the same hook and API."""
        if not api_id:
            return ""
        if len(api_id) > _LONGEST_API_ID or not api_id.isprintable():
            return OTHER_API
        with self._lock:
            pair = (*hook, api_id)
            if pair in self._pairs:
                return api_id
            if len(self._pairs) >= MAX_PAIRS or (api_id not in self._apis and len(self._apis) >= MAX_APIS):
                return OTHER_API
            self._apis.add(api_id)
            self._pairs.add(pair)
            return api_id


@dataclass(slots=True)
class HookCounts:
    """Counted since the start. Durations are of the handler with all that is around it, in seconds."""

    durations: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS_S) + 1))
    duration_sum_s: float = 0.0
    failed: int = 0
    timed_out: int = 0
    shed: int = 0

    def count(self, duration_s: float) -> None:
        self.durations[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
        self.duration_sum_s += duration_s

    def add(self, other: HookCounts) -> None:
        self.durations = [mine + its for mine, its in zip(self.durations, other.durations, strict=True)]
        self.duration_sum_s += other.duration_sum_s
        self.failed += other.failed
        self.timed_out += other.timed_out
        self.shed += other.shed


def add_up(counted: Iterable[tuple[CallLabel, HookCounts]]) -> dict[CallLabel, HookCounts]:
    totals: dict[CallLabel, HookCounts] = {}
    for label, counts in counted:
        totals.setdefault(label, HookCounts()).add(counts)
    return totals


@dataclass(slots=True, eq=False)
class Waiting:
    """A call that is admitted, or waits to be."""

    call: Call
    rpc: Rpc
    state: HookState
    #: time.monotonic() when it came.
    since_s: float
    #: The same at which it has taken too long; set when it begins to run.
    deadline_s: float = 0.0
    #: Where it is counted; set when it enters.
    counts: HookCounts = field(init=False)
    #: Set, under the state's lock, by whoever ends it first: its thread or task, or the watchdog or timer.
    ended: bool = False
    #: Its client was told that it took too long.
    timed_out: bool = False
    #: Of an async call: the loop that it was given to, and its task there.
    loop: LoopThread | None = None
    task: asyncio.Task[None] | None = None
    #: Where its caller runs it itself (`runtime.in_process`): tells that one, from any thread, to begin.
    start: Callable[[], object] | None = None


class Pace:
    """Whether a sync hook is so quick that its calls may run where calls are read.

    A slow one now and then makes no slow hook. A slow hook is tried again, less and less often.
    Not exact, as no lock is taken for it.
    """

    __slots__ = ("_pause", "apart", "doubt")

    def __init__(self) -> None:
        #: So many calls are to be run apart, before one is tried again.
        self.apart = 1
        self._pause = _FIRST_PAUSE
        #: Rises with slow calls, and falls with quick ones.
        self.doubt = 0

    def took(self, duration_s: float) -> None:
        """Of a call that ran where calls are read. To be called where it was slow, or there is doubt."""
        if duration_s <= QUICK_S:
            self.doubt -= 1
            if not self.doubt:
                self._pause = _FIRST_PAUSE
            return
        self.doubt += _CALLS_PER_SLOW_ONE
        if self.doubt > _CALLS_PER_SLOW_ONE:
            self.doubt = 1  # The next slow one is enough.
            self.apart = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)


#: Waiting for less is no longer than a hand-over to another thread, and the way back.
QUICK_S = 0.00025
_CALLS_PER_SLOW_ONE = 100
_FIRST_PAUSE = 16
_LONGEST_PAUSE = 4096


class HookState:
    """The gate in front of a hook: so many calls run at one time, so many wait, the rest is refused."""

    __slots__ = (
        "_api_labels",
        "_counts",
        "concurrency",
        "hook",
        "lock",
        "on_error",
        "pace",
        "queue",
        "queue_size",
        "running",
        "timeout_s",
    )

    def __init__(
        self,
        hook: Hook,
        api_labels: ApiLabels,
        *,
        concurrency: int,
        queue_size: int,
        timeout_s: float,
        on_error: str,
    ) -> None:
        self.hook = hook
        self._api_labels = api_labels
        self.lock = threading.Lock()
        self.concurrency = concurrency
        self.queue_size = queue_size
        self.timeout_s = timeout_s
        self.on_error = on_error
        self.running = 0
        self.queue: deque[Waiting] = deque()
        self.pace = Pace()
        #: By the API of the calls, as its label.
        self._counts: dict[str, HookCounts] = {}

    @property
    def counted(self) -> list[tuple[CallLabel, HookCounts]]:
        """What it counted, by API."""
        label = label_of(self.hook)
        return [((*label, api), counts) for api, counts in list(self._counts.items())]

    def _counts_of(self, api_id: str) -> HookCounts:
        label = self._api_labels.label(label_of(self.hook), api_id)
        return self._counts.setdefault(label, HookCounts())

    def enter(self, waiting: Waiting) -> bool | None:
        """True: run it now. False: it waits. None: refused."""
        api_id = waiting.call.api_id  # Now: the reply is made of the same message.
        # Not `with`, here and in `leave`: it takes twice as long, and each call comes by both.
        self.lock.acquire()
        try:
            waiting.counts = counts = self._counts.get(api_id) or self._counts_of(api_id)
            if self.running < self.concurrency:
                self.running += 1
                return True
            if len(self.queue) < self.queue_size:
                self.queue.append(waiting)
                return False
            counts.shed += 1
            return None
        finally:
            self.lock.release()

    def drop(self, waiting: Waiting) -> bool:
        """Take a call out of the queue. False where it does not wait there, as it runs or has ended."""
        with self.lock:
            if waiting not in self.queue:
                return False
            self.queue.remove(waiting)
            waiting.ended = True
            return True

    def leave(self, waiting: Waiting, duration_s: float) -> Waiting | None:
        """Count a call that ran, and give the next one to run in its place.

        None also where the watchdog has ended the call already, and with it, its place.
        """
        self.lock.acquire()
        try:
            if waiting.ended:
                return None
            waiting.ended = True
            waiting.counts.count(duration_s)
            if self.queue:
                return self.queue.popleft()
            self.running -= 1
            return None
        finally:
            self.lock.release()

    def cut_off(self, waiting: Waiting, duration_s: float) -> tuple[bool, Waiting | None]:
        """End a call that runs still: whether it did, and if so, the next one to run in its place."""
        with self.lock:
            if waiting.ended:
                return False, None
            waiting.ended = True
            waiting.counts.count(duration_s)
            if self.queue:
                return True, self.queue.popleft()
            self.running -= 1
            return True, None
