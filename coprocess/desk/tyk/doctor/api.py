"""An API definition as the doctor looks at it: with its lost listeners and its webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from coprocess.desk.tyk.definition import Definition, read_definition
from coprocess.desk.tyk.doctor.document import Document
from coprocess.desk.tyk.fields import Field
from coprocess.process.webhooks import PREFIX

#: What an OAS definition's listeners can be: a webhook, a script inside the gateway, its log.
_OAS_LISTENERS = ("webhook", "custom", "log")


@dataclass(frozen=True, slots=True)
class LostListener:
    """A listener of an OAS definition that no plugin can hear."""

    path: str
    function: str
    #: A script's listener, all right in itself: lost only if it names one of our handlers.
    is_script: bool = False


@dataclass(frozen=True, slots=True)
class Api:
    """One definition, and the file that it is in."""

    document: Document
    definition: Definition
    #: OAS only.
    lost_events: tuple[LostListener, ...] = ()
    #: OAS only: the listeners that are webhooks, and on.
    webhooks: tuple[Field, ...] = ()

    @property
    def api_id(self) -> str:
        return self.definition.api_id.text()

    @property
    def bundle(self) -> str:
        """Empty where it names none, or that is disabled."""
        return self.definition.bundle.text()

    @property
    def driver(self) -> str:
        return self.definition.driver.text()


def read_api(document: Document) -> Api:
    """The definition of either form. Raises ConfigError naming the place of a value of the wrong kind."""
    definition = read_definition(document.root)
    webhooks = (
        each for each in definition.listeners if each["type"].text() == "webhook" and each["enabled"].flag()
    )
    return Api(document, definition, tuple(_lost(definition)), tuple(webhooks))


def _lost(definition: Definition) -> Iterator[LostListener]:
    for misplaced in definition.misplaced_events:
        yield LostListener(misplaced.place.path, misplaced.function.text())
    for listener in definition.listeners:
        kind, function = listener["type"].text(), listener["functionName"]
        if kind == "custom":
            yield LostListener(function.path, function.text(), is_script=True)
        elif kind not in _OAS_LISTENERS:
            yield LostListener(listener.path, function.text() or listener["name"].text())


def webhook_handler(url: str) -> str:
    """The function of this service that a webhook to `url` runs; empty where it goes elsewhere."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    return unquote(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else ""
