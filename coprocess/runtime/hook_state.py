"""What the service keeps of each hook while it runs: who runs, who waits, and what it counted."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from coprocess.loading.hooks import Hook
from coprocess.runtime.pace import Pace

#: Upper bounds, in seconds, of the duration histogram.
DURATION_BUCKETS_S: Final[tuple[float, ...]] = (
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


class Entrant(Protocol):
    """What comes to a gate: a call (`runtime.call.Call`)."""

    counts: HookCounts

    @property
    def api_id(self) -> str: ...


Entering = TypeVar("Entering", bound=Entrant)


class HookState(Generic[Entering]):
    """The gate in front of a hook: so many calls run at one time, so many wait, the rest is refused.

    Most calls find room, and nobody who waits behind them: they take no lock, as each call comes by. What
    they do instead is one step of a set each. Whoever enters is in the set first, and looks then: so no more
    than may are in it, and whoever finds it full has gone out again before it waits. Whoever waits is in the
    queue first, and looks once more then; whoever leaves is out first, and looks at the queue then: so one of
    the two sees the other.
    """

    __slots__ = (
        "_api_labels",
        "_lock",
        "concurrency",
        "counts",
        "hook",
        "inside",
        "on_error",
        "pace",
        "queue",
        "queue_size",
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
        takes_turns: bool = True,
    ) -> None:
        """`takes_turns`: as of a Pace."""
        self.hook = hook
        self._api_labels = api_labels
        self.concurrency = concurrency
        self.queue_size = queue_size
        self.timeout_s = timeout_s
        self.on_error = on_error
        #: The calls that run.
        self.inside: set[Entering] = set()
        #: Those that wait. It is changed under the lock only.
        self.queue: deque[Entering] = deque()
        self._lock = threading.Lock()
        self.pace = Pace(takes_turns=takes_turns)
        #: By the API of the calls, as its label.
        self.counts: dict[str, HookCounts] = {}

    @property
    def running(self) -> int:
        """How many calls run."""
        return len(self.inside)

    @property
    def in_flight(self) -> int:
        """How many run or wait."""
        # Who waits first: one that is given a place comes to it before it leaves the queue.
        return len(self.queue) + len(self.inside)

    @property
    def has_calls(self) -> bool:
        return self.in_flight > 0

    def holds(self, call: Entering) -> bool:
        """Whether `call` runs still, and nobody has ended it."""
        return call in self.inside

    @property
    def counted(self) -> list[tuple[CallLabel, HookCounts]]:
        """What it counted, by API."""
        label = label_of(self.hook)
        return [((*label, api), counts) for api, counts in list(self.counts.items())]

    def counts_of(self, api_id: str) -> HookCounts:
        label = self._api_labels.label(label_of(self.hook), api_id)
        return self.counts.setdefault(label, HookCounts())

    def enter(self, call: Entering) -> bool:
        """Whether there was room, and `call` is to run now. Else it is to `wait`."""
        api_id = call.api_id  # Now: the reply is made of the same message.
        call.counts = self.counts.get(api_id) or self.counts_of(api_id)
        inside = self.inside
        inside.add(call)
        if len(inside) <= self.concurrency:
            return True
        inside.discard(call)
        return False

    def wait(self, call: Entering) -> bool | None:
        """False: it waits. True: it is to run now, after all. None: it is refused."""
        with self._lock:
            if len(self.queue) >= self.queue_size:
                # Nobody who leaves would find it in the queue: it looks once more, all the same.
                if self._takes_in(call):
                    return True
                call.counts.shed += 1
                return None
            self.queue.append(call)
            if self._takes_in(call):
                self.queue.pop()
                return True
            return False

    def _takes_in(self, call: Entering) -> bool:
        self.inside.add(call)
        if len(self.inside) <= self.concurrency:
            return True
        self.inside.discard(call)
        return False

    def drop(self, call: Entering) -> bool:
        """Take a call out of the queue. False where it does not wait there, as it runs or has ended."""
        with self._lock:
            if call not in self.queue:
                return False
            self.queue.remove(call)
            return True

    def leave(self, call: Entering, duration_s: float) -> Entering | None:
        """Count a call that ran, and give the next one to run in its place.

        None also where the watchdog has ended the call already, and with it, its place.
        """
        try:
            self.inside.remove(call)
        except KeyError:
            return None
        # As `HookCounts.count`, in place: each call comes by.
        counts = call.counts
        counts.durations[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
        counts.duration_sum_s += duration_s
        return self.following() if self.queue else None

    def cut_off(self, call: Entering, duration_s: float) -> tuple[bool, Entering | None]:
        """End a call that runs still: whether it did, and if so, the next one to run in its place."""
        ended, following = self.release(call)
        if ended:
            call.counts.count(duration_s)
        return ended, following

    def release(self, call: Entering) -> tuple[bool, Entering | None]:
        """As `cut_off`, of a call that did not run: it is not counted."""
        try:
            self.inside.remove(call)
        except KeyError:
            return False, None
        return True, self.following() if self.queue else None

    def following(self) -> Entering | None:
        """The next one to run, in the place of one that has left; None: nobody waits."""
        with self._lock:
            # Else one that came meanwhile has the place, and gives it on.
            return self.queue.popleft() if self.queue and self._takes_in(self.queue[0]) else None
