"""Renders pages in a child process at low priority.

On a thread of the application the same work would stall every other thread through the interpreter lock, for
tens of milliseconds a page.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from slowspan import native
from slowspan.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import Popen

TIMEOUT = 30.0
"""Seconds a child may take. A page of 2 000 samples takes less than one on an idle core."""

RETRY_AFTER = 300.0
"""Seconds without another try after a child could not run: what forbids it rarely changes soon."""

CANNOT_RENDER = 3
"""Exit status of a child that ran but could not make a page of this profile."""

_REASON_LIMIT = 500

NICENESS = 10
"""Requests come first: a page may wait for a free moment of the machine."""

# The priority first: half of a child's time goes by with imports.
_START = (
    f"import os, sys; getattr(os, 'nice', int)({NICENESS}); sys.path += sys.argv[1:]; "
    "from slowspan.report.render_child import main; main()"
)

_PYTHON_NAME = re.compile(r"(python|pypy)w?[0-9.]*[a-z]*(\.exe)?", re.IGNORECASE)

_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH", "SYSTEMROOT")
"""What an interpreter may need to start. All else stays out: a PYTHONPATH could instrument the child."""

_PAGE_START, _PAGE_END = b"<!DOCTYPE html>", b"</html>\n"


class RenderError(RuntimeError):
    """A page was not rendered. The profile is unharmed and can be rendered later.

    Attributes:
        reason: One sentence on what went wrong.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ChildRenderer:
    """Renders stored profiles to pages, each in a fresh child process.

    Safe to use from several threads. Call it on delivery threads only: it waits for the child.

    Args:
        python: The interpreter to start; found by itself when None.
        timeout: Seconds a child may take.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        python: str | None = None,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._python = python
        self._timeout = timeout
        self._clock = clock
        self._retry_at: float | None = None

    @property
    def available(self) -> bool:
        """Whether a child would be tried: False for a while after one could not run."""
        return self._retry_at is None or self._clock() >= self._retry_at

    def render_html(self, stored: bytes, trace_url: str | None = None) -> bytes:
        """Render a page.

        Args:
            stored: The stored profile.
            trace_url: Where the trace can be read.

        Returns:
            The page, UTF-8.

        Raises:
            RenderError: No child could be started, it failed, or it took too long.
        """
        if not self.available:
            raise RenderError("no child process could render pages lately")
        try:
            page = self._run(json.dumps({"trace_url": trace_url}).encode("ascii") + b"\n" + stored)
        except _UnavailableError as error:
            self._retry_at = self._clock() + RETRY_AFTER
            raise RenderError(str(error)) from error.__cause__
        self._retry_at = None
        return page

    def _run(self, request: bytes) -> bytes:
        # Imported here because it costs 5 ms, and only slow requests need it.
        subprocess = native.subprocess_module()
        try:
            process = _start(self._python or find_python())
        except Exception as error:
            # Whatever forbids it here: a sandbox, a limit, a library that has replaced subprocess.
            raise _UnavailableError(f"no child process could be started: {error}") from error
        with process:
            try:
                page, errors = process.communicate(request, timeout=self._timeout)
            except subprocess.TimeoutExpired as error:
                raise _UnavailableError(f"the child process took longer than {self._timeout:g} s") from error
            finally:
                process.kill()
        # Not the exit status: it is lost where the application ignores or collects its children.
        if page.startswith(_PAGE_START) and page.endswith(_PAGE_END):
            return page
        last_line = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        reason = one_line(last_line, _REASON_LIMIT)
        if process.returncode == CANNOT_RENDER:
            raise RenderError(reason)
        raise _UnavailableError(f"the child process ended with status {process.returncode}: {reason}")


shared: ChildRenderer = ChildRenderer()
"""The renderer of this process: whether children can run is a fact of the process, not of one provider."""


class _UnavailableError(Exception):
    """No child can render at present, whatever the profile."""


def find_python() -> str:
    """Return the path of a Python interpreter of the running version.

    In an embedded interpreter ``sys.executable`` can be another program, such as uWSGI: starting that would
    do harm. So the name must be Python's, or the file be where this version's interpreter is installed.

    Raises:
        FileNotFoundError: There is none for sure.
    """
    if not getattr(sys, "frozen", False):  # a program that was packed together with its interpreter
        executable = sys.executable or ""
        if _PYTHON_NAME.fullmatch(Path(executable).name) and os.access(executable, os.X_OK):
            return executable
        major, minor = sys.version_info[:2]
        name = "python.exe" if os.name == "nt" else f"bin/python{major}.{minor}"
        for prefix in (sys.exec_prefix, sys.base_exec_prefix):
            installed = Path(prefix, name)
            if prefix and os.access(installed, os.X_OK):
                return str(installed)
    raise FileNotFoundError(f"{sys.executable!r} is not a Python interpreter")


def _start(python: str) -> Popen[bytes]:
    subprocess = native.subprocess_module()
    options = ["-I", "-S"]
    if sys.dont_write_bytecode:
        options.append("-B")
    flags = 0
    if sys.platform == "win32":
        flags = (
            subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.BELOW_NORMAL_PRIORITY_CLASS
        )
    # Without preexec_fn the child comes from vfork: no copied memory, no fork handlers of the application.
    process: Popen[bytes] = subprocess.Popen(
        [python, *options, "-c", _START, *_import_path()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
        start_new_session=True,  # Ctrl-C in a terminal is not for the child
        creationflags=flags,
    )
    return process


@functools.cache
def _import_path() -> tuple[str, ...]:
    pyinstrument = find_spec("pyinstrument")
    if pyinstrument is None or pyinstrument.origin is None:
        raise ModuleNotFoundError("pyinstrument is not installed")
    packages = (Path(__file__).parents[1], Path(pyinstrument.origin).parent)
    return tuple(dict.fromkeys(str(package.parent.absolute()) for package in packages))
