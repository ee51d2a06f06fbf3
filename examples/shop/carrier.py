"""Asks the carrier, another company's service over HTTP, when a parcel will arrive."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

TIMEOUT_SECONDS = 10


def delivery_of(url: str, order: int) -> dict[str, Any]:
    """Return what the carrier knows of an order's parcel."""
    with urllib.request.urlopen(f"{url}/parcels/{order}", timeout=TIMEOUT_SECONDS) as answer:
        delivery: dict[str, Any] = json.load(answer)
    return delivery
