"""The suites: where they are in their source distribution, what is run of them, and what is left out and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DJANGO_APPS = (
    "asgi",
    "async",
    "builtin_server",
    "conditional_processing",
    "csrf_tests",
    "decorators",
    "file_uploads",
    "generic_views",
    "handlers",
    "httpwrappers",
    "messages_tests",
    "middleware",
    "middleware_exceptions",
    "requests_tests",
    "responses",
    "servers",
    "sessions_tests",
    "signals",
    "test_client",
    "test_client_regress",
    "urlpatterns",
    "urlpatterns_reverse",
    "view_tests",
    "wsgi",
)
"""What handles requests; the rest is the ORM, forms and the admin."""


@dataclass(frozen=True)
class PytestSuite:
    """A suite that pytest runs.

    Attributes:
        left_out: Paths that are not run.
        deselected: Single tests that are not run.
        folder: Where it is run, in the source distribution.
    """

    left_out: tuple[str, ...] = ()
    deselected: tuple[str, ...] = ()
    folder: str = "."

    def command(self, junit: Path) -> list[str]:
        """Return the arguments of Python that run it and leave a JUnit file."""
        left_out = [f"--ignore={path}" for path in self.left_out]
        deselected = [f"--deselect={test}" for test in self.deselected]
        pytest = ["-m", "pytest", "tests", "--quiet", "-p", "no:cacheprovider", f"--junitxml={junit}"]
        # The instrumentations have loaded anyio, of which pytest says so; most suites turn warnings into errors.
        early = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
        return [*pytest, f"-W{early}", *left_out, *deselected]


@dataclass(frozen=True)
class DjangoSuite:
    """Some applications of Django's own tests.

    Attributes:
        apps: Their names.
        folder: Where they are run, in the source distribution.
    """

    apps: tuple[str, ...]
    folder: str = "tests"

    def command(self, junit: Path) -> list[str]:
        """Return the arguments of Python that run it; ``django_settings`` keeps the outcomes."""
        return ["runtests.py", "--settings=django_settings", "--parallel=1", *self.apps]


SUITES: dict[str, PytestSuite | DjangoSuite] = {
    "fastapi": PytestSuite(
        left_out=(
            # They measure, and need tools of their own.
            "tests/benchmarks",
            "tests/memory_benchmarks",
            # The documentation's examples: a third of the time, and no other way to handle a request.
            "tests/test_tutorial",
            # Each sets up OpenTelemetry itself, in a process without any.
            "tests/test_telemetry",
            # It starts the command line tool through coverage.
            "tests/test_fastapi_cli.py",
        )
    ),
    "django": DjangoSuite(DJANGO_APPS),
    "starlette": PytestSuite(),
    "werkzeug": PytestSuite(
        deselected=(
            # It waits for ever when a change comes before the reloader looks, in plain runs too.
            "tests/test_serving.py::test_reloader_sys_path",
        )
    ),
    "flask": PytestSuite(),
}
"""By the distribution's name; the longest first, since they share two processors."""
