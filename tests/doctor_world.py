"""A sound project for the doctor, to be spoilt by tests."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coprocess.desk.findings import FileFinding
from coprocess.desk.tyk.bundle_build import build
from coprocess.desk.tyk.doctor import examine, read_project
from coprocess.process.config import Settings

NATIVE = """
import asyncio
import time

import coprocess
from coprocess import CustomKeyCheck, Event, Post, PostKeyAuth, Pre, Reject, Response, respond, store

@CustomKeyCheck
def auth(request, session):
    session.allow("t")

@Pre
def pre(request):
    {pre}

@Pre(name="slow")
async def slow_one(request):
    await asyncio.sleep(0)
    {slow}

@Post
def post(request, session):
    {post}

@Response
def resp(request, response):
    {resp}

@Event
def on_event(event):
    {event}
"""

EMBEDDED = """
from tyk.decorators import *
from gateway import TykGateway as tyk

@Pre
def old_pre(r, s, spec):
    {old_pre}
    return r, s

@CustomKeyCheck
def old_auth(request, session, metadata, spec):
    {old_auth}
    return request, session, metadata

@Hook
def old_resp(request, response, session, metadata, spec):
    {old_resp}
    return response
"""

CLASSIC: dict[str, Any] = {
    "api_id": "one",
    "org_id": "default",
    "use_keyless": False,
    "custom_plugin_auth_enabled": True,
    "proxy": {"listen_path": "/one/", "target_url": "http://127.0.0.1/"},
    "custom_middleware": {
        "driver": "grpc",
        "pre": [{"name": "pre"}, {"name": "slow"}, {"name": "old_pre"}],
        "auth_check": {"name": "auth"},
        "post": [{"name": "post"}],
        "response": [{"name": "resp"}, {"name": "old_resp"}],
    },
    "event_handlers": {
        "events": {
            "AuthFailure": [{"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "on_event"}}],
            "KeyExpired": [{"handler_name": "eh_log_handler", "handler_meta": {"prefix": "x"}}],
        }
    },
}

OAS: dict[str, Any] = {
    "openapi": "3.0.3",
    "x-tyk-api-gateway": {
        "info": {"id": "two"},
        "upstream": {"url": "http://127.0.0.1/"},
        "server": {
            "listenPath": {"value": "/two/"},
            "authentication": {
                "enabled": True,
                "custom": {"enabled": True, "config": {"enabled": True, "functionName": "old_auth"}},
            },
            "eventHandlers": [{"type": "webhook", "trigger": "QuotaExceeded", "name": "hook"}],
        },
        "middleware": {
            "global": {
                "pluginConfig": {"driver": "grpc"},
                "prePlugins": [
                    {"enabled": True, "functionName": "pre"},
                    {"enabled": False, "functionName": "x"},
                ],
            }
        },
    },
}

CONF: dict[str, Any] = {
    "coprocess_options": {
        "enable_coprocess": True,
        "coprocess_grpc_server": "tcp://127.0.0.1:5555",
        "grpc_recv_max_size": 64 * 2**20,
        "grpc_send_max_size": 64 * 2**20,
    }
}


@dataclass
class World:
    """A sound project, to be spoilt by a test."""

    folder: Path
    classic: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(CLASSIC))
    oas: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(OAS))
    conf: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(CONF))
    settings: dict[str, Any] = field(default_factory=dict)
    #: Statements of the handlers; the default sets the token that one of them needs.
    code: dict[str, str] = field(default_factory=lambda: {"old_auth": 'metadata["token"] = "t"'})
    extra: str = ""
    files: dict[str, str] = field(default_factory=dict)
    bundles: list[Path] = field(default_factory=list)

    def examine(self) -> list[FileFinding]:
        handlers = self.folder / "handlers"
        apis = self.folder / "apis"
        for path in (handlers, apis):
            path.mkdir(exist_ok=True)
        slots = ("pre", "slow", "post", "resp", "event", "old_pre", "old_auth", "old_resp")
        code = {slot: self.code.get(slot, "pass") for slot in slots}
        (handlers / "native.py").write_text(NATIVE.format(**code) + self.extra)
        (handlers / "embedded.py").write_text(EMBEDDED.format(**code))
        (apis / "one.json").write_text(json.dumps(self.classic, indent=2))
        (apis / "two.json").write_text(json.dumps(self.oas, indent=2))
        (self.folder / "tyk.conf").write_text(json.dumps(self.conf, indent=2))
        for name, text in self.files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        project = read_project(
            Settings(handlers=[handlers], **self.settings),
            conf=self.folder / "tyk.conf",
            apis=[apis],
            bundles=self.bundles,
        )
        try:
            return examine(project)
        finally:
            project.loaded.forget()

    @property
    def middleware(self) -> dict[str, Any]:
        found: dict[str, Any] = self.classic["custom_middleware"]
        return found

    @property
    def gateway(self) -> dict[str, Any]:
        found: dict[str, Any] = self.oas["x-tyk-api-gateway"]
        return found

    @property
    def custom_auth(self) -> dict[str, Any]:
        found: dict[str, Any] = self.gateway["server"]["authentication"]["custom"]
        return found

    @property
    def events(self) -> dict[str, Any]:
        found: dict[str, Any] = self.classic["event_handlers"]["events"]
        return found

    @property
    def options(self) -> dict[str, Any]:
        found: dict[str, Any] = self.conf["coprocess_options"]
        return found

    def bundle(self, driver: str = "grpc") -> Path:
        """A bundle of one handler, named by the classic definition."""
        source = self.folder / "source"
        source.mkdir()
        (source / "b.py").write_text("from coprocess import Pre\n@Pre\ndef pre(request):\n    pass\n")
        target = self.folder / "bundles" / "b.zip"
        build(source, target, driver=driver)
        self.bundles.append(target)
        self.classic["custom_middleware_bundle"] = "b.zip"
        self.classic["custom_middleware"] = {}
        self.classic["custom_plugin_auth_enabled"] = False
        self.conf["enable_bundle_downloader"] = True
        self.conf["bundle_base_url"] = "http://127.0.0.1/"
        return target


def code(slot: str, statement: str, extra: str = "") -> Callable[[World], object]:
    """Put a statement into a handler, and code after all of them."""

    def spoil(world: World) -> None:
        world.code[slot] = statement
        world.extra = extra

    return spoil


def both(*steps: Callable[[World], object]) -> Callable[[World], object]:
    """Spoil it in several ways."""

    def spoil(world: World) -> None:
        for step in steps:
            step(world)

    return spoil
