"""A Tornado server for tests: ``python tornado_parts.py PORT``."""

from __future__ import annotations

import asyncio
import sys

from known_parts import gather_part, waits
from tornado import web


class Waiting(web.RequestHandler):
    async def get(self, number: str) -> None:
        self.finish(await waits(number, gather_part))


async def main() -> None:
    web.Application([(r"/waits/(\w+)", Waiting)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
