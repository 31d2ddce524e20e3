"""Prometheus metrics of handlers, in the registry of the process: they go on over reloads.

A metric that another load has registered, with the same name, kind and labels, is the same metric: both count
in it. One with the same name that is defined otherwise takes the place of the other.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from coprocess.loading.handler_modules import Scope, asking_scope

_logger = logging.getLogger("coprocess")


@dataclass(slots=True)
class _Registration:
    collector: Any
    #: Those whose code has it.
    scopes: list[Scope] = field(default_factory=list)
    #: False: another has taken its place.
    is_shown: bool = True


_lock = threading.RLock()
_registrations: list[_Registration] = []
_is_watched = False


def watch_registry() -> None:
    """See to metrics that handler code registers from now on."""
    global _is_watched
    with _lock:
        if not _is_watched:
            _is_watched = True
            from prometheus_client import REGISTRY

            _watch(REGISTRY)


def _watch(registry: Any) -> None:
    register = registry.register

    def register_of_handlers(collector: Any) -> None:
        scope = asking_scope()
        if scope is None:
            register(collector)
            return
        with _lock:
            rivals = _rivals(registry, collector)
            # Two of one name in one load are a mistake, as everywhere.
            if not rivals or any(scope in rival.scopes for rival in rivals):
                register(collector)
            elif len(rivals) == 1 and _is_same(rivals[0].collector, collector):
                rivals[0].scopes.append(scope)
                documentation = collector._documentation
                collector.__dict__ = rivals[0].collector.__dict__
                collector._documentation = documentation
                return
            else:
                for rival in rivals:
                    registry.unregister(rival.collector)
                    rival.is_shown = False
                    if all(scope.package != other.package for other in rival.scopes):
                        _logger.warning(
                            "a metric of %s takes the place of one of %s: they have one name and differ",
                            scope.package,
                            rival.scopes[0].package,
                        )
                register(collector)
            _registrations.append(_Registration(collector, [scope]))

    registry.register = register_of_handlers


def _rivals(registry: Any, collector: Any) -> list[_Registration]:
    # What the registry itself compares; it offers no other way to ask.
    names = set(registry._get_names(collector))
    return [
        each
        for each in _registrations
        if each.is_shown and not names.isdisjoint(registry._get_names(each.collector))
    ]


def _is_same(first: Any, second: Any) -> bool:
    from prometheus_client import Counter, Gauge, Histogram, Info, Summary

    if type(first) is not type(second) or type(first) not in (Counter, Gauge, Histogram, Info, Summary):
        return False
    names = ("_name", "_labelnames", "_upper_bounds", "_multiprocess_mode")
    return all(getattr(first, name, None) == getattr(second, name, None) for name in names)


def forget(scope: Scope) -> None:
    """Take from the registry what no other scope has, and show again what had to give way to that."""
    if not _registrations:
        return
    from prometheus_client import REGISTRY

    with _lock:
        for each in [each for each in _registrations if scope in each.scopes]:
            each.scopes = [other for other in each.scopes if other is not scope]
            if not each.scopes:
                _registrations.remove(each)
                if each.is_shown:
                    REGISTRY.unregister(each.collector)
        for each in reversed(_registrations):
            if not each.is_shown and not _rivals(REGISTRY, each.collector):
                type(REGISTRY).register(REGISTRY, each.collector)
                each.is_shown = True
