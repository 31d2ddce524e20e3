"""Rules on webhooks that are meant for this service: in definitions of either form, and in tyk.conf."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.definition import WEBHOOK_HANDLER, classic_events
from coprocess.desk.tyk.doctor.api import Api, webhook_handler
from coprocess.desk.tyk.doctor.document import Document
from coprocess.desk.tyk.doctor.names import check_name, spec_of
from coprocess.desk.tyk.doctor.project import Project
from coprocess.desk.tyk.fields import Field
from coprocess.errors import ConfigError
from coprocess.process.webhooks import SECRET_HEADER

_SEE = "`coprocess events config` prints it."


@dataclass(frozen=True, slots=True)
class Webhook:
    """One that is switched on. What differs between the forms is read already."""

    document: Document
    url: Field
    method: Field
    template: Field
    #: The time within which the gateway sends no body twice.
    cooldown: Field
    has_cooldown: bool
    #: In lower case.
    header_names: frozenset[str]
    #: How the form writes a cooldown of a second.
    example: str

    @property
    def is_ours(self) -> bool:
        """Whether it goes to a listener like ours. Other webhooks are other programs' business."""
        return SECRET_HEADER.lower() in self.header_names or self.handler != ""

    @property
    def handler(self) -> str:
        return webhook_handler(self.url.text())


def check_api_webhooks(project: Project, api: Api) -> Iterator[FileFinding]:
    try:
        hooks = [
            _classic(api.document, use.meta)
            for use in api.definition.events
            if use.kind.text() == WEBHOOK_HANDLER
        ]
        hooks += [_oas(api.document, listener) for listener in api.webhooks]
        for hook in hooks:
            yield from _check(project, hook, spec_of(api))
    except ConfigError as error:
        yield api.document.malformed(error, "The gateway does not load the definition.")


def check_conf_webhooks(project: Project) -> Iterator[FileFinding]:
    """Raises ConfigError as `check_conf` does."""
    if (conf := project.conf) is None:
        return
    for use in classic_events(conf.root["event_handlers"]["events"]):
        if use.kind.text() == WEBHOOK_HANDLER:
            yield from _check(project, _classic(conf, use.meta), {})
    yield from _check(project, _classic(conf, conf.root["monitor"]["configuration"]), {})


def _classic(document: Document, meta: Field) -> Webhook:
    cooldown = meta["event_timeout"]
    return Webhook(
        document,
        meta["target_path"],
        meta["method"],
        meta["template_path"],
        cooldown,
        cooldown.number() > 0,
        frozenset(name.lower() for name in meta["header_map"].members()),
        '"event_timeout": 1',
    )


def _oas(document: Document, listener: Field) -> Webhook:
    cooldown = listener["cooldownPeriod"]
    return Webhook(
        document,
        listener["url"],
        listener["method"],
        listener["bodyTemplate"],
        cooldown,
        re.search("[1-9]", cooldown.text()) is not None,
        frozenset(header["name"].text().lower() for header in listener["headers"]),
        '"cooldownPeriod": "1s"',
    )


def _check(project: Project, hook: Webhook, spec: dict[str, str]) -> Iterator[FileFinding]:
    if not hook.is_ours:
        return
    found, template = hook.document.finding, hook.template.text()
    if hook.method.text().upper() != "POST":
        shown = f'"{hook.method.text()}"' if hook.method.text() else "missing"
        yield found(
            Severity.ERROR,
            "webhook-method",
            hook.method.path,
            f"The method of a webhook to this service is {shown}.",
            "This service takes POST only, and a method that the gateway does not know is sent as GET: every "
            "event is refused with 405, and lost.",
            'Write "method": "POST".',
        )
    if not template:
        yield found(
            Severity.ERROR,
            "webhook-no-template",
            hook.template.path,
            "A webhook to this service has no template.",
            "The gateway takes its own, which leaves out most of the event: every one is refused with 400, "
            "and lost.",
            f"Name a file with the template. {_SEE}",
        )
    elif not template.endswith(".json"):
        yield found(
            Severity.WARNING,
            "webhook-template-name",
            hook.template.path,
            f'The template\'s name, "{template}", does not end in .json.',
            "The gateway sends the event with an empty Content-Type, which proxies on the way may refuse.",
            "Give the file a name that ends in .json.",
        )
    if not hook.has_cooldown:
        yield found(
            Severity.WARNING,
            "webhook-for-ever",
            hook.cooldown.path,
            "A webhook's cooldown is missing or 0, which means for ever.",
            "The gateway never sends a body again that it has sent once; as each event's is new, it leaves a "
            "key in Redis for each, for ever.",
            f"Write {hook.example}.",
        )
    if SECRET_HEADER.lower() not in hook.header_names:
        yield found(
            Severity.ERROR,
            "webhook-no-secret",
            hook.url.path,
            f"A webhook to this service has no header {SECRET_HEADER}.",
            "Every event is refused with 401, and lost.",
            f"Add the header, with the value of events_secret. {_SEE}",
        )
    if hook.handler:
        yield from check_name(project, HookType.Event, hook.handler, hook.document, hook.url.path, spec)
