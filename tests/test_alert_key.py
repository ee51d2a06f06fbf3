"""Which slow requests are one alert."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles import make_profile, make_span
from slowspan.delivery.alert_key import MOST_PARAMETERS, AlertKey, alert_key, hottest_place
from slowspan.report.summary import hot_lines

ALL = ("parameters",)


def key_of(words: tuple[str, ...] = ALL, hot_line: str = "", **span: Any) -> AlertKey:
    """Return the key of a request with these facts."""
    return alert_key(make_span(**span), words, hot_line)


def test_key_for_people() -> None:
    """A key has 32 hexadecimal digits, and a text that says which requests it means."""
    key = key_of()
    assert key.text == "shop GET /orders/<id> ?page=2&token=[redacted]"
    assert len(key.digest) == 32
    assert int(key.digest, 16) >= 0
    assert key_of(service_name=None, method=None, route=None, path=None, name="import", parameters=()).text == "import"


def test_order_and_repetition_of_parameters_make_no_difference() -> None:
    """The same parameters in another order, or twice, are the same alert."""
    pairs = (("page", "2"), ("sort", "name"))
    assert key_of(parameters=pairs) == key_of(parameters=pairs[::-1]) == key_of(parameters=pairs * 2)


@pytest.mark.parametrize(
    "change",
    [
        {"service_name": "cart"},
        {"method": "POST"},
        {"route": "/carts/<id>"},
        {"parameters": (("page", "3"),)},
        {"parameters": (("page=2", ""),)},
    ],
)
def test_what_makes_another_alert(change: dict[str, Any]) -> None:
    """Another service, method, route or parameter is another alert, also where the texts look alike."""
    assert key_of(parameters=(("page", "2"),)).digest != key_of(**{"parameters": (("page", "2"),), **change}).digest


def test_what_makes_no_other_alert() -> None:
    """Trace, status, duration and, with a route, the path make no difference."""
    assert key_of() == key_of(trace_id="1" * 32, status_code=500, path="/orders/43")
    assert key_of(route=None) != key_of(route=None, path="/orders/43")


def test_words_choose_the_parameters() -> None:
    """Without words no parameter counts; with ``?NAME`` only those of that name do."""
    pages = [(("page", page), ("sort", sort)) for page in "12" for sort in "ab"]
    assert len({key_of((), parameters=pairs) for pairs in pages}) == 1
    assert {key_of(("?page",), parameters=pairs).text for pairs in pages} == {
        "shop GET /orders/<id> ?page=1",
        "shop GET /orders/<id> ?page=2",
    }
    assert len({key_of(ALL, parameters=pairs) for pairs in pages}) == 4


def test_hot_line() -> None:
    """With ``hot_line`` the function in which the time goes counts, and without it does not."""
    place = hottest_place(hot_lines(make_profile()))
    found = key_of(("hot_line",), place)
    assert found.text == "shop GET /orders/<id> pricing.py:total_for"
    assert key_of(("hot_line",), "orders.py:load") != found
    assert key_of((), place) == key_of(())
    assert hottest_place(hot_lines(make_profile([]))) == ""


def test_key_is_bounded() -> None:
    """However long a stranger's path, and however many parameters, a key is short and of one line."""
    many = tuple((f"p{number:04d}", "x" * 1000) for number in range(500))
    key = key_of(route=None, path="/" + "é\n" * 50_000, parameters=many)
    assert len(key.text) <= 300
    assert key.text.isprintable()
    assert key == key_of(route=None, path="/" + "é\n" * 60_000, parameters=many[:MOST_PARAMETERS])


@given(st.text(st.characters(codec=None)), st.lists(st.tuples(st.text(), st.text(st.characters(codec=None)))))
def test_any_text_makes_a_key(path: str, parameters: list[tuple[str, str]]) -> None:
    """No text of a stranger, surrogates included, breaks the key or its line."""
    key = key_of(route=None, path=path, parameters=tuple(parameters))
    assert len(key.digest) == 32
    assert key.text.isprintable()
    key.text.encode()


def test_key_is_the_same_in_every_process() -> None:
    """Processes with other hash seeds make the same key."""
    code = "from test_alert_key import key_of; print(key_of().digest)"
    path = ":".join(entry for entry in sys.path if entry)
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {key_of().digest}
