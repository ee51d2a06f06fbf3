"""An aiohttp server for tests: ``python aiohttp_parts.py PORT``."""

from __future__ import annotations

import sys

from aiohttp import web
from known_parts import gather_part, waits


async def waiting(request: web.Request) -> web.Response:
    return web.json_response(await waits(request.match_info["number"], gather_part))


app = web.Application()
app.router.add_get("/waits/{number}", waiting)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))
