"""Settings for Django's tests: as of its own ``test_sqlite``, with a runner that keeps each test's outcome."""

import json
import os
import unittest
from pathlib import Path
from typing import Any

from django.test.runner import DiscoverRunner

DATABASES = {name: {"ENGINE": "django.db.backends.sqlite3"} for name in ("default", "other")}
SECRET_KEY = "for tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "django_settings.Runner"


class Result(unittest.TextTestResult):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes: dict[str, str] = {}

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        # Whatever was added before stays; a test of which nothing bad was said has passed.
        self.outcomes.setdefault(test.id(), "passed")

    def stopTestRun(self) -> None:
        super().stopTestRun()
        for outcome, tests in (
            ("skipped", [test for test, _ in self.skipped + self.expectedFailures]),
            ("failed", [test for test, _ in self.failures + self.errors]),
            ("failed", self.unexpectedSuccesses),
        ):
            for test in tests:
                # A part of a test counts for the test, and a class that could not be set up for itself.
                self.outcomes[getattr(test, "test_case", test).id()] = outcome
        Path(os.environ["DOWNSTREAM_RESULTS"], "outcomes.json").write_text(json.dumps(self.outcomes))


class Runner(DiscoverRunner):
    def get_resultclass(self) -> type[unittest.TextTestResult]:
        return Result
