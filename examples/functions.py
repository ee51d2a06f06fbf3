"""A program that is no server: functions and blocks of code that are profiled whenever they are slow.

From this folder:

    python functions.py

It prints where the reports are. OpenTelemetry need not be set up; where it is, each call is a span of its trace.
"""

import logging
import time
from collections.abc import Iterator

import slowspan

logging.basicConfig(level=logging.INFO)


@slowspan.profile
def greet() -> None:
    """Be quick: nothing is reported, since the threshold is a second."""


@slowspan.profile(threshold=0.2)
def primes(limit: int) -> list[int]:
    return [number for number in range(2, limit) if is_prime(number)]


def is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


@slowspan.profile("read the orders", threshold=0.2)
def orders() -> Iterator[int]:
    for number in range(3):
        time.sleep(0.1)
        yield number


greet()
primes(200_000)
with slowspan.profile("nightly import", threshold=0.2):
    for order in orders():
        primes(order)
