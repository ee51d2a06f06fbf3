"""The pages of a Django project for tests, and its WSGI and ASGI applications."""

from __future__ import annotations

import time

from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path
from known_parts import (
    SCALE,
    Parts,
    block_part,
    blocks,
    compute_part,
    gather_part,
    lead_in_async,
    marked,
    queue_part,
    waits,
)

wsgi = get_wsgi_application()
asgi = get_asgi_application()


async def waiting(request: HttpRequest, number: str) -> JsonResponse:
    return JsonResponse(await waits(number, gather_part))


async def handing_on(_: HttpRequest, number: str) -> JsonResponse:
    """Have threads do the parts: the one that waits for the view, and one of a pool."""
    parts = Parts()

    async def request() -> None:
        await parts.wait(lead_in_async, number)
        await sync_to_async(parts.call)(compute_part)
        await sync_to_async(parts.call)(block_part)
        await sync_to_async(parts.call, thread_sensitive=False)(queue_part)

    await marked(request, number)()
    return JsonResponse(parts.facts())


def blocking(request: HttpRequest, number: str) -> JsonResponse:
    return JsonResponse(blocks(number))


def orm_part(seconds: float = 0.1) -> None:
    """Ask the database again and again."""
    # Imported here: models can be imported only after the set-up.
    from django.contrib.contenttypes.models import ContentType

    end = time.perf_counter() + seconds * SCALE
    while time.perf_counter() < end:
        list(ContentType.objects.filter(app_label="nothing"))


def query_part() -> None:
    """Ask the database once for something that takes long."""
    with connection.cursor() as cursor:
        count = int(800_000 * SCALE)
        cursor.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT {count}) SELECT sum(i) FROM n"
        )
        cursor.fetchall()


def with_database(request: HttpRequest, number: str) -> JsonResponse:
    return JsonResponse(blocks(number, orm_part, query_part))


def prepare(request: HttpRequest) -> JsonResponse:
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    return JsonResponse({})


urlpatterns = [
    path("waits/<number>", waiting),
    path("hands-on/<number>", handing_on),
    path("blocks/<number>", blocking),
    path("database/<number>", with_database),
    path("prepare", prepare),
]
