"""``slowspan.profile``: functions stay as they are, whatever their kind, and run inside their span."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import itertools
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

import slowspan
from functions import watched_globally
from slowspan import decorator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from watched import Watched


@pytest.fixture
def seen(no_global_provider: None, caplog: pytest.LogCaptureFixture) -> Iterator[Watched]:
    """Watch the global provider; nothing may be logged meanwhile, such as a context that could not be detached."""
    with caplog.at_level(logging.INFO), watched_globally() as watched:
        yield watched
    assert [record.getMessage() for record in caplog.records] == []


class Error(Exception):
    """What these functions raise."""


def current() -> str:
    """Return the name of the current span, "" where there is none."""
    return getattr(trace.get_current_span(), "name", "")


@slowspan.profile
def plain(value: int, *, double: bool = False) -> str:
    """Return the current span."""
    return current() * value if double else current()


@slowspan.profile("a coroutine")
async def coroutine(value: int = 1) -> str:
    """Return the current span."""
    await asyncio.sleep(0)
    return current() * value


@slowspan.profile(threshold=2)
def generator(last: object = None) -> Generator[Any, Any, Any]:
    """Yield the current span, and what is sent and thrown."""
    try:
        sent = yield current()
        while sent is not None:
            try:
                sent = yield current(), sent
            except Error as error:
                sent = yield current(), error
    finally:
        closed.append(current())
    return last


@slowspan.profile("an async generator", threshold=2)
async def async_generator() -> AsyncIterator[Any]:
    """Yield the current span, and what is sent and thrown."""
    try:
        sent = yield current()
        while sent is not None:
            try:
                await asyncio.sleep(0)
                sent = yield current(), sent
            except Error as error:
                sent = yield current(), error
    finally:
        await asyncio.sleep(0)
        closed.append(current())


closed: list[str] = []


@pytest.fixture(autouse=True)
def nothing_closed() -> None:
    closed.clear()


class Methods:
    """One method of each kind, decorated on either side."""

    @slowspan.profile
    def method(self) -> str:
        return current()

    @slowspan.profile
    @classmethod
    def class_below(cls) -> tuple[type, str]:
        return cls, current()

    @classmethod
    @slowspan.profile
    def class_above(cls) -> tuple[type, str]:
        return cls, current()

    @slowspan.profile
    @staticmethod
    def static_below() -> str:
        return current()

    @staticmethod
    @slowspan.profile
    def static_above() -> str:
        return current()


class Inherits(Methods):
    """A subclass, to see which class a class method gets."""


def test_name_signature_and_text_stay() -> None:
    """A decorated function says of itself what it said before."""
    assert (plain.__name__, plain.__qualname__, plain.__module__) == ("plain", "plain", __name__)
    assert plain.__doc__ == "Return the current span."
    assert str(inspect.signature(plain)) == "(value: 'int', *, double: 'bool' = False) -> 'str'"
    assert plain.__wrapped__.__code__.co_name == "plain"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (plain, "isfunction"),
        (coroutine, "iscoroutinefunction"),
        (generator, "isgeneratorfunction"),
        (async_generator, "isasyncgenfunction"),
        (Methods.method, "isfunction"),
    ],
    ids=["function", "coroutine", "generator", "async generator", "method"],
)
def test_kind_stays(function: Any, kind: str) -> None:
    """Frameworks that ask what kind of function it is get the same answer as before."""
    kinds = ("iscoroutinefunction", "isgeneratorfunction", "isasyncgenfunction")
    assert getattr(inspect, kind)(function)
    assert all(getattr(inspect, other)(function) is (other == kind) for other in kinds)


def test_function(seen: Watched) -> None:
    """A function gets its arguments, its result comes back, and it runs inside a span with its name."""
    assert plain(2, double=True) == f"{__name__}.plain" * 2
    assert current() == ""
    (span,) = seen.exported()
    assert (span.name, span.kind, span.status.status_code) == (
        f"{__name__}.plain",
        trace.SpanKind.INTERNAL,
        StatusCode.UNSET,
    )


def test_wrong_arguments(seen: Watched) -> None:
    """A call with wrong arguments fails as before."""
    with pytest.raises(TypeError, match=r"plain\(\) missing 1 required positional argument: 'value'"):
        plain()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "is_class"),
    [("method", False), ("class_below", True), ("class_above", True), ("static_below", False), ("static_above", False)],
)
def test_methods(seen: Watched, name: str, is_class: bool) -> None:
    """Methods of all kinds work, whichever decorator is above, on instances, classes and subclasses."""
    span_name = f"{__name__}.Methods.{name}"
    assert getattr(Inherits(), name)() == ((Inherits, span_name) if is_class else span_name)
    if name != "method":
        assert getattr(Methods, name)() == ((Methods, span_name) if is_class else span_name)


def test_other_callables(seen: Watched) -> None:
    """What has no name of its own is called by what it wraps, or by its class."""

    class Callable:
        def __call__(self) -> str:
            return current()

    assert slowspan.profile(functools.partial(current))() == f"{__name__}.current"
    assert slowspan.profile(Callable())() == f"{__name__}.test_other_callables.<locals>.Callable"


def test_exception_goes_on_as_it_is(seen: Watched) -> None:
    """The very exception is raised, its traceback has one line more, and the span has it as OpenTelemetry writes it."""
    error = Error("no")

    @slowspan.profile("fails")
    def fails() -> None:
        raise error

    with pytest.raises(Error) as caught:
        fails()
    assert caught.value is error
    assert (error.__context__, error.__cause__) == (None, None)
    functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert functions == ["test_exception_goes_on_as_it_is", "profiled", "fails"]
    (span,) = seen.exported()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "Error: no")
    assert [event.name for event in span.events] == ["exception"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_error_is_not_written_on_the_span(seen: Watched, error: type[BaseException]) -> None:
    """As in OpenTelemetry, what ends a program passes without being called an error."""

    @slowspan.profile
    def ends() -> None:
        raise error

    with pytest.raises(error):
        ends()
    (span,) = seen.exported()
    assert (span.status.status_code, span.events) == (StatusCode.UNSET, ())


def test_no_cycle_is_left(seen: Watched) -> None:
    """A call leaves nothing to the garbage collector, also when it fails."""

    @slowspan.profile
    def fails() -> None:
        raise Error

    def fail() -> None:
        with pytest.raises(Error):
            fails()

    def throw() -> None:
        running = generator()
        next(running)
        with pytest.raises(Error):
            running.throw(Error())

    plain(1)
    for work in (lambda: plain(1), lambda: list(generator()), fail, throw):
        # The sampler's thread may leave something of its own in one of them.
        assert min(_garbage(work) for _ in range(5)) == 0


def _garbage(work: Any) -> int:
    gc.collect()
    gc.disable()
    try:
        work()
        return gc.collect()
    finally:
        gc.enable()


def test_coroutine(seen: Watched) -> None:
    """Coroutines run inside their own span each, also when many run at once."""

    async def run() -> list[str]:
        assert await coroutine(2) == "a coroutine" * 2
        return await asyncio.gather(*(coroutine() for _ in range(10)))

    assert asyncio.run(run()) == ["a coroutine"] * 10
    assert [span.parent for span in seen.exported()] == [None] * 11


def test_cancelled_coroutine(seen: Watched) -> None:
    """A cancelled coroutine ends its span, which is no error."""

    @slowspan.profile
    async def waits() -> None:
        await asyncio.sleep(60)

    async def run() -> None:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    (span,) = seen.exported()
    assert span.status.status_code is StatusCode.UNSET


def test_coroutine_that_is_closed_elsewhere(seen: Watched) -> None:
    """A suspended coroutine that is thrown away ends its span, in whatever context that happens, without a word."""

    @slowspan.profile
    async def waits() -> None:
        await asyncio.sleep(60)

    async def begin(running: Any) -> None:
        running.send(None)

    running = waits()
    asyncio.run(begin(running))
    running.close()
    assert len(seen.exported()) == 1


def test_generator(seen: Watched) -> None:
    """Items, sent values, thrown exceptions and the result pass; the span is current while the generator runs only."""
    name = f"{__name__}.generator"
    error = Error()

    def delegate() -> Generator[Any, Any, Any]:
        return (yield from generator("result"))

    running = delegate()
    assert next(running) == name
    assert current() == ""
    assert running.send("sent") == (name, "sent")
    assert running.throw(error) == (name, error)
    assert current() == ""
    with pytest.raises(StopIteration) as stopped:
        next(running)
    assert stopped.value.value == "result"
    assert closed == [name]
    assert len(seen.exported()) == 1


@pytest.mark.parametrize("how", ["close", "forget", "throw"])
def test_generator_that_is_not_used_up(seen: Watched, how: str) -> None:
    """A generator that is closed, forgotten or failed by its consumer cleans up inside its span, which then ends."""
    running = generator()
    next(running)
    assert seen.exported() == []
    if how == "close":
        running.close()
    elif how == "throw":
        with pytest.raises(LookupError):
            running.throw(LookupError())
    del running
    gc.collect()
    assert closed == [f"{__name__}.generator"]
    (span,) = seen.exported()
    assert span.status.status_code is (StatusCode.ERROR if how == "throw" else StatusCode.UNSET)


def test_generator_that_never_begins(seen: Watched) -> None:
    """A generator of which no item is taken has no span."""
    generator().close()
    assert (closed, seen.exported()) == ([], [])


def test_generator_that_will_not_close(seen: Watched) -> None:
    """A generator that yields when it is told to close is told off as before."""

    @slowspan.profile
    def stubborn() -> Iterator[int]:
        while True:
            try:
                yield 1
            except GeneratorExit:
                yield 2
                return

    running = stubborn()
    next(running)
    with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
        running.close()  # type: ignore[attr-defined]


def test_spans_inside_a_generator(seen: Watched) -> None:
    """A span that is current inside a generator when it yields is so when it goes on, and never in the consumer."""
    tracer = trace.get_tracer("test")

    @slowspan.profile("outer")
    def items() -> Iterator[str]:
        with tracer.start_as_current_span("inner"):
            yield current()
            yield current()
        yield current()

    with tracer.start_as_current_span("consumer"):
        names = [(name, current()) for name in items()]
    assert names == [("inner", "consumer"), ("inner", "consumer"), ("outer", "consumer")]
    assert [span.name for span in seen.exported()] == ["inner", "outer", "consumer"]


def test_async_generator(seen: Watched) -> None:
    """Items, sent values and thrown exceptions pass; the span is current while the generator runs only."""
    name = "an async generator"
    error = Error()

    async def run() -> None:
        running: Any = async_generator()
        assert await anext(running) == name
        assert current() == ""
        assert await running.asend("sent") == (name, "sent")
        assert await running.athrow(error) == (name, error)
        with pytest.raises(StopAsyncIteration):
            await anext(running)
        assert current() == ""

    asyncio.run(run())
    assert closed == [name]
    assert len(seen.exported()) == 1


@pytest.mark.parametrize("how", ["close", "forget", "throw", "loop ends"])
def test_async_generator_that_is_not_used_up(seen: Watched, how: str) -> None:
    """One that is closed, forgotten, failed or left to the end of the loop cleans up inside its span, which ends."""
    kept = []

    async def run() -> None:
        running: Any = async_generator()
        await anext(running)
        if how == "close":
            await running.aclose()
        elif how == "throw":
            with pytest.raises(LookupError):
                await running.athrow(LookupError())
        elif how == "loop ends":
            kept.append(running)
        del running
        gc.collect()
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert closed == ["an async generator"]
    assert len(seen.exported()) == 1


def test_nested_and_recursive(seen: Watched) -> None:
    """Functions inside functions, and a function inside itself, have spans inside spans."""

    @slowspan.profile("factorial")
    def factorial(number: int) -> int:
        return number * factorial(number - 1) if number else int(plain(0) != "")

    assert factorial(2) == 2
    spans = seen.exported()
    assert [span.name for span in spans] == [f"{__name__}.plain", "factorial", "factorial", "factorial"]
    for inner, outer in itertools.pairwise(spans):
        assert inner.parent is not None
        assert inner.parent.span_id == outer.context.span_id


def test_block(seen: Watched) -> None:
    """A block is a span, which it is given; an exception goes through it and is written there."""

    def run() -> None:
        with slowspan.profile("nightly import", threshold=60) as span:
            assert current() == "nightly import"
            span.set_attribute("rows", 7)
            raise Error

    with pytest.raises(Error):
        run()
    assert current() == ""
    (exported,) = seen.exported()
    assert exported.attributes is not None
    assert (exported.name, exported.attributes["rows"]) == ("nightly import", 7)
    assert exported.status.status_code is StatusCode.ERROR


def test_block_that_is_shared(seen: Watched) -> None:
    """One object serves blocks in each other and in many tasks at once."""
    block = slowspan.profile("block")

    async def work(number: int) -> None:
        with block as outer:
            await asyncio.sleep(0.001 * number)
            with block as inner:
                await asyncio.sleep(0.001)
                assert trace.get_current_span() is inner
            assert trace.get_current_span() is outer

    async def run() -> None:
        await asyncio.gather(*(work(number) for number in range(5)))

    asyncio.run(run())
    assert len(seen.exported()) == 10
    assert current() == ""


@pytest.mark.parametrize(
    ("threshold", "allowed"), [("soon", "a number"), (-1, "0"), (True, "a number")], ids=["word", "negative", "truth"]
)
def test_wrong_threshold(threshold: Any, allowed: str) -> None:
    """A wrong threshold is refused where it is written, with what is allowed."""
    with pytest.raises(slowspan.ConfigError, match=f"threshold.*{allowed}"):
        slowspan.profile(threshold=threshold)


@pytest.mark.parametrize("subject", [7, Methods, property(current)], ids=["number", "class", "property"])
def test_no_function(subject: Any) -> None:
    """What cannot be profiled is refused where it is written."""
    with pytest.raises(TypeError, match="takes a function or a name"):
        slowspan.profile(subject)


def test_block_without_a_name() -> None:
    """A block without a name is refused with an example."""
    with pytest.raises(TypeError, match="needs a name: with"), slowspan.profile(threshold=1):
        pass


def test_too_many_thresholds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Thresholds that are computed do not grow without a bound: from some number on the nearest one is taken."""
    monkeypatch.setattr(decorator, "_thresholds", {float(number) for number in range(1, 65)})
    assert slowspan.profile("block", threshold=7.6)._threshold == 8
    assert "8 s is used instead of 7.6 s" in caplog.text
    assert len(decorator._thresholds) == 64
