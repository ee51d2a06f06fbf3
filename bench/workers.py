"""Processes that do what a benchmark tells them, so that what is compared shares neither memory nor lock nor caches.

Controls run in processes that never import slowspan, but for benchmarks that compare within one process and say so. All
of them stand ready at once, and one works at a time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any


class Worker:
    """A process with one object of a class of a benchmark, and calls to its methods.

    Args:
        target: The class, as ``module:Class``.
        **options: Its constructor's arguments; like all arguments and results they travel as JSON.
    """

    def __init__(self, target: str, **options: Any) -> None:
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.workers", target, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # The order of sets and dicts must not differ between what is compared.
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        )

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the object and return its result.

        Raises:
            RuntimeError: It failed; its traceback is on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # There will be no answer either.
            self._process.stdin.write(json.dumps([method, arguments]) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{method} failed in a worker")
        return json.loads(answer)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _serve() -> None:
    target, options = sys.argv[1:]
    module, _, name = target.partition(":")
    # What a benchmark prints by mistake must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # As an application would have it, but for the place.
    logging.basicConfig(filename=os.devnull, level=logging.INFO)
    worker = getattr(importlib.import_module(module), name)(**json.loads(options))
    for request in sys.stdin:
        method, arguments = json.loads(request)
        answers.write(json.dumps(getattr(worker, method)(**arguments)) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
