"""Stacks like those of a web application: many functions, several call sites in each, any depth."""

from __future__ import annotations

import random
from collections.abc import Callable

FUNCTIONS = 120
CALL_SITES = 4

_TEMPLATE = """
def {name}(path, level, leaf):
    if level == len(path):
        return leaf()
    site, callee = path[level]
    if site == 0:
        return callee(path, level + 1, leaf)
    if site == 1:
        return callee(path, level + 1, leaf)
    if site == 2:
        return callee(path, level + 1, leaf)
    return callee(path, level + 1, leaf)
"""

Function = Callable[..., object]
Path = list[tuple[int, Function]]


def _make_functions() -> list[Function]:
    functions = []
    for number in range(FUNCTIONS):
        name = f"function_{number}"
        scope: dict[str, Function] = {}
        source = _TEMPLATE.format(name=name)
        # Files of ten functions each, as in an application.
        exec(compile("\n" * 20 * (number % 10) + source, f"/srv/app/module_{number // 10}.py", "exec"), scope)
        functions.append(scope[name])
    return functions


_functions = _make_functions()


def random_path(depth: int, rng: random.Random) -> Path:
    """Return a chain of ``depth`` calls through random functions and call sites."""
    return [(rng.randrange(CALL_SITES), rng.choice(_functions)) for _ in range(depth)]


def call(path: Path, leaf: Callable[[], object]) -> object:
    """Call ``leaf`` at the end of a path; the stack is as deep as the path is long, plus this frame."""
    return path[0][1](path, 1, leaf)
