#!/usr/bin/env python3
"""The hello plugin of Kong's page, typed, with its work in a function outside the class."""

from __future__ import annotations

from typing import Any

import kong_pdk.pdk.kong as kong

Schema = ({"message": {"type": "string", "default": "hello"}},)
version = "0.1.0"
priority = 0


def greet(kong: kong.kong, message: str) -> None:
    host, err = kong.request.get_header("host")
    if err:
        kong.log.err("py-hello: the host cannot be read: ", err)
    kong.response.set_header("x-hello-from-python", f"{message} {host or 'nobody'}")


class Plugin:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def access(self, kong: kong.kong) -> None:
        greet(kong, self.config["message"])


if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server

    start_dedicated_server("py-hello", Plugin, version, priority, Schema)
