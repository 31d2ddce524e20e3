"""The type of what phases are called with: `kong: kong.kong`. For annotations."""

from typing import Any

from coprocess.gateways.kong.pdk import kong_class as _kong_class

kong: Any = _kong_class("lua")
