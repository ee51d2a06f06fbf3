"""The carrier's service: a slow one, run as a process of its own. Usage: carrier_service.py PORT."""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECONDS_TO_ANSWER = 1.3


class Carrier(BaseHTTPRequestHandler):
    """Answers ``/parcels/<order>``, slowly, and everything else at once."""

    def do_GET(self) -> None:
        """Answer with the day of the delivery."""
        if self.path.startswith("/parcels/"):
            time.sleep(SECONDS_TO_ANSWER)
        body = json.dumps({"carrier": "Slow & Sure Parcels", "days": 3}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: the demonstration prints its own progress."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Carrier).serve_forever()
