"""What slowspan says of itself: the status, the same figures as OpenTelemetry metrics, and one line on losses."""

from __future__ import annotations

import gc
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import metrics
from opentelemetry.metrics import _internal as metrics_internals
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.util._once import Once

import slowspan
import slowspan.metrics
from slowspan.recording import stack_sampler
from support import eventually
from watched import THRESHOLD, wait_here, wait_until_linked, watched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_other_processors() -> None:
    """Give every test a process without the processors of earlier ones."""
    gc.collect()


@pytest.fixture
def no_meter_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a process without a global meter provider."""
    # OpenTelemetry lets the provider be set once in a process and offers no way back.
    monkeypatch.setattr(metrics_internals, "_METER_PROVIDER", None)
    monkeypatch.setattr(metrics_internals, "_METER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(metrics_internals, "_PROXY_METER_PROVIDER", metrics_internals._ProxyMeterProvider())
    monkeypatch.setattr(slowspan.metrics, "_registered", False)


@pytest.fixture
def reader(no_meter_provider: None) -> Iterator[InMemoryMetricReader]:
    """Return the reader of a meter provider that becomes the global one when it is asked for."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    yield reader
    provider.shutdown()


def read(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Return slowspan's metrics: one value per name and, for drops, one per reason."""
    data = reader.get_metrics_data()
    values: dict[str, Any] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            if scope.scope.name != "slowspan":
                continue
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    key = ".".join([metric.name, *map(str, point.attributes.values())])
                    assert key not in values, "two streams with one name"
                    values[key] = point.value
    return values


def test_without_any_processor() -> None:
    """Without a processor the status says that nothing is on."""
    status = slowspan.status()
    assert not status.enabled
    assert status.seen == status.slow == status.reports == 0


def test_counts(tmp_path: Path) -> None:
    """The status counts spans seen, recorded and slow, and the reports; and says where they are written."""
    with watched(threshold=0.1, start_after=0.03, report_dir=tmp_path) as shop:
        first = slowspan.status()
        assert (first.enabled, first.interval, first.report_dir) == (True, 0.01, str(tmp_path))
        assert first.seen == first.recorded == first.slow == first.reports == 0
        for _ in range(3):
            shop.request(lambda: None)
        span = shop.start("late, not slow")
        eventually(lambda: slowspan.status().recorded == 1)
        span.end(end_time=span.start_time + 50_000_000)
        shop.request(wait_here)
        shop.profiles()
        status = slowspan.status()
    assert (status.seen, status.recorded, status.slow, status.reports) == (5, 2, 1, 1)
    assert status.drops == {}
    assert status.report_dir == str(tmp_path)


def test_reading_the_status_counts_nothing() -> None:
    """The number of spans seen does not depend on how often it is read."""
    with watched() as shop:
        shop.request(lambda: None)
        assert [shop.processor.status().seen for _ in range(5)] == [1] * 5
        shop.request(lambda: None)
        assert shop.processor.status().seen == 2


def test_samplers_own_cost() -> None:
    """The sampler's cost is a share of one core, above nothing while it samples; the interval is the one set."""
    with watched(interval=0.002) as shop:
        span = shop.start()
        wait_until_linked(span)
        wait_here()
        status = shop.processor.status()
        span.end()
    assert 0 < status.sampler_cost < 1
    assert status.interval == pytest.approx(0.002)


def test_interval_widens_with_the_budget() -> None:
    """With a tiny budget the sampler widens its interval, the status says so, and its cost comes down towards it."""
    with watched(interval=0.001, overhead_budget=0.0001) as shop:
        span = shop.start()
        eventually(lambda: shop.processor.status().interval > 0.01)
        time.sleep(THRESHOLD)
        span.end()
        assert shop.profile().interval_ns > 1_000_000


def test_parked_sampler_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some time after the last span the sampler parks, and uses no CPU time until the next one wakes it."""
    monkeypatch.setattr(stack_sampler, "LINGER_NS", 50_000_000)
    with watched() as shop:
        shop.request(wait_here)
        eventually(lambda: stack_sampler.shared.parked)
        before = stack_sampler.shared._cpu_ns
        wait_here(0.1)
        assert stack_sampler.shared._cpu_ns == before
        shop.request(wait_here, name="woken")
        assert shop.profiles()[-1].sample_count > 0


def test_two_processors_are_summed(tmp_path: Path) -> None:
    """The status of the process is the sum of its processors', but for the one sampler that they share."""
    with watched() as one, watched() as two:
        one.request(wait_here)
        two.request(wait_here)
        one.profiles(), two.profiles()
        status = slowspan.status()
        assert (status.seen, status.slow, status.reports) == (2, 2, 2)
        assert status.sampler_cost == pytest.approx(one.processor.status().sampler_cost, rel=0.9)


def test_drops_by_reason() -> None:
    """Each loss is counted under the name of its reason, over all processors."""
    with watched(queue_size=1) as one, watched() as two:
        for shop in (one, two):
            shop.start()

        def is_counted() -> bool:
            gc.collect()
            return slowspan.status().drops == {"span_abandoned": 2}

        eventually(is_counted)


def test_status_is_the_same_as_metrics(reader: InMemoryMetricReader) -> None:
    """With a meter provider every figure of the status is a metric of the same value."""
    with watched() as shop:
        shop.request(wait_here)
        shop.request(lambda: None)
        shop.start("abandoned")
        shop.profiles()

        def is_counted() -> bool:
            gc.collect()
            return bool(shop.processor.status().drops)

        eventually(is_counted)
        values = read(reader)
        status = shop.processor.status()
    assert values["slowspan.spans.seen"] == status.seen == 3
    assert values["slowspan.spans.recorded"] == status.recorded
    assert values["slowspan.spans.slow"] == status.slow == 1
    assert values["slowspan.reports"] == status.reports == 1
    assert values["slowspan.enabled"] == status.enabled == 1
    assert values["slowspan.drops.span_abandoned"] == 1
    assert values["slowspan.sampler.cost"] == pytest.approx(status.sampler_cost, abs=0.5)
    assert values["slowspan.sampler.interval"] == pytest.approx(status.interval)


def test_metrics_of_two_processors_are_summed(reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture) -> None:
    """Two processors give one stream of each metric, with the sum, and no warning about duplicates."""
    with watched() as one, watched() as two:
        one.request(wait_here)
        two.request(lambda: None)
        one.profiles()
        values = read(reader)
    assert values["slowspan.spans.seen"] == 2
    assert values["slowspan.spans.slow"] == values["slowspan.reports"] == 1
    assert [r.getMessage() for r in caplog.records if "instrument" in r.getMessage().lower()] == []


def test_meter_provider_that_comes_later(no_meter_provider: None) -> None:
    """A meter provider that is set after the processor was made gets the figures too."""
    with watched() as shop:
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        metrics.set_meter_provider(provider)
        shop.request(lambda: wait_here(2 * THRESHOLD))
        assert read(reader)["slowspan.spans.seen"] == 1
        provider.shutdown()


def test_processor_is_not_kept_alive_by_its_metrics(reader: InMemoryMetricReader) -> None:
    """Neither the meter nor the status keeps a processor alive that nobody else has."""
    with watched() as shop:
        shop.request(wait_here)
        shop.profiles()
    reference = weakref.ref(shop.processor)
    del shop

    def is_gone() -> bool:
        gc.collect()
        return reference() is None

    eventually(is_gone)
    assert not slowspan.status().enabled
    read(reader)
