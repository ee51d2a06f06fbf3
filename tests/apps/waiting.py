"""An application for tests, which knows nothing of slowspan: its pages wait as long as they are told."""

import os
import sys
import threading
import time

from flask import Flask

app = Flask(__name__)


@app.get("/")
def front() -> str:
    return "front"


@app.get("/wait/<seconds>")
def wait(seconds: str) -> str:
    wait_here(float(seconds))
    return f"waited {seconds} s"


def wait_here(seconds: float) -> None:
    time.sleep(seconds)


@app.get("/process")
def process() -> dict[str, object]:
    """Tell whether OpenTelemetry and slowspan are on in this process, and which of its threads there are."""
    slowspan = sys.modules.get("slowspan")
    return {
        "pid": os.getpid(),
        "instrumented": "opentelemetry.sdk.trace" in sys.modules,
        "enabled": slowspan is not None and slowspan.status().enabled,
        "threads": [thread.name for thread in threading.enumerate() if thread.name.startswith("slowspan")],
    }
