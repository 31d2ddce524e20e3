"""The example that stands beside Flask's own middleware, under a real server."""

from __future__ import annotations

import runpy
from pathlib import Path

import httpx

from tests.web.servers import wsgiref_at

EXAMPLE = Path(__file__).parents[2] / "examples" / "web" / "shop.py"


def test_the_example_runs() -> None:
    names = runpy.run_path(str(EXAMPLE))
    site, told = names["site"], names["told"]
    with wsgiref_at(site) as address:
        url = f"http://{address}/resource"
        refused = httpx.get(url)
        assert (refused.status_code, refused.json()) == (401, {"error": "a token, please"})
        assert told == []
        headers = {"Authorization": "secret"}
        index = httpx.get(url, headers=headers)
        assert (index.text, index.headers["X-Greeting"]) == ("index", "hello from /resource")
        assert told == ["before_request", "decorator", "after_request"]
        assert index.headers["X-Handlers"] == "refuse_attacks count"
        assert httpx.get(f"{url}/7", headers=headers).text == "show for ann"
        created = httpx.post(url, headers=headers)
        assert (created.text, created.headers["X-Visitors"]) == ("create", "3")
        assert httpx.get(f"http://{address}/%2e%2e/etc", headers=headers).status_code in (400, 404)
    names["around"].close()
