"""Rules on webhooks that are meant for this service: in definitions of either form, and in tyk.conf."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.definition import WEBHOOK_HANDLER, classic_events
from coprocess.desk.tyk.doctor.api import Api, webhook_handler
from coprocess.desk.tyk.doctor.document import Document
from coprocess.desk.tyk.doctor.names import check_name, spec_of
from coprocess.desk.tyk.doctor.project import Project
from coprocess.desk.tyk.events_config import SECRET_ITSELF
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
    #: By name in lower case.
    headers: dict[str, Field]
    #: How the form writes a cooldown of a second.
    example: str

    @property
    def is_ours(self) -> bool:
        """Whether it goes to a listener like ours. Other webhooks are other programs' business."""
        return SECRET_HEADER.lower() in self.headers or self.handler != ""

    @property
    def handler(self) -> str:
        return webhook_handler(self.url.text())

    @property
    def api_id(self) -> str:
        """Of which API the events are said to be; empty: of none."""
        return parse_qs(urlsplit(self.url.text()).query).get("api_id", [""])[0]


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
        {name.lower(): value for name, value in meta["header_map"].members().items()},
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
        {header["name"].text().lower(): header["value"] for header in listener["headers"]},
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
    secret = hook.headers.get(SECRET_HEADER.lower())
    if secret is None:
        yield found(
            Severity.ERROR,
            "webhook-no-secret",
            hook.url.path,
            f"A webhook to this service has no header {SECRET_HEADER}.",
            "Every event is refused with 401, and lost.",
            f"Add the header, with the value of events_secret. {_SEE}",
        )
    elif secret.text() == SECRET_ITSELF:
        yield found(
            Severity.ERROR,
            "webhook-placeholder",
            secret.path,
            f'The header {SECRET_HEADER} still says "{SECRET_ITSELF}".',
            "Every event is refused with 401, and lost.",
            "Put the value of events_secret in its place.",
        )
    if hook.handler:
        if hook.api_id and spec and hook.api_id != spec["APIID"]:
            yield found(
                Severity.ERROR,
                "webhook-other-api",
                hook.url.path,
                f'The URL says api_id={hook.api_id}, and the definition is of "{spec["APIID"]}".',
                "Handlers take the event for one of another API, and what is for that API only runs.",
                f"Write api_id={spec['APIID']}.",
            )
            return
        # The service goes by the URL.
        spec = {"APIID": hook.api_id}
        yield from check_name(project, HookType.Event, hook.handler, hook.document, hook.url.path, spec)
