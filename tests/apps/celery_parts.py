"""A Celery application for tests, with its broker and its results in the folder that ``CELERY_FOLDER`` names."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from known_parts import blocks
from opentelemetry import trace

FOLDER = os.environ["CELERY_FOLDER"]

app = Celery("celery_parts", broker="filesystem://", backend=f"file://{FOLDER}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": FOLDER,
        "data_folder_out": FOLDER,
        "control_folder": FOLDER,
        "polling_interval": 0.05,
    },
    worker_hijack_root_logger=False,
)


@app.task(name="orders.pack")
def pack(number: str) -> dict[str, Any]:
    return blocks(number)


@worker_process_shutdown.connect(weak=False)
def flush(**_: object) -> None:
    """Deliver what is waiting: the pool's processes end without running exit handlers."""
    trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined]


if os.environ.get("BY_HAND"):

    @worker_process_init.connect(weak=False)
    def set_up(**_: object) -> None:
        """Set OpenTelemetry up in each process of the pool, as its documentation says."""
        from opentelemetry.instrumentation.celery import CeleryInstrumentor
        from opentelemetry.sdk.trace import TracerProvider

        import slowspan

        trace.set_tracer_provider(TracerProvider())
        slowspan.instrument()
        CeleryInstrumentor().instrument()
