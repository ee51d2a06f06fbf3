"""Where settings come from: precedence, fallback, unknown names and files."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slowspan import environment_variables
from slowspan.config import SETTING_NAMES, ConfigError, Settings
from slowspan.config_sources import load_declared_settings, load_settings

PREFIX = "OTEL_PYTHON_SLOWSPAN_"

UseFile = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTING_NAMES, "config"):
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)
    monkeypatch.delenv("OTEL_PYTHON_EXCLUDED_URLS", raising=False)


@pytest.fixture
def use_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> UseFile:
    """Write a settings file and name it in the environment."""

    def use(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv(PREFIX + "CONFIG", str(path))
        return path

    return use


def test_defaults() -> None:
    """With no source at all, every setting is the default and says so."""
    loaded = load_settings()
    assert loaded.settings == Settings()
    assert loaded.origins == dict.fromkeys(SETTING_NAMES, "default")


def test_precedence(monkeypatch: pytest.MonkeyPatch, use_file: UseFile) -> None:
    """Code goes before the environment, the environment before the file, the file before the default."""
    path = use_file("slowspan.toml", "threshold = 2\ninterval = 0.02\nqueue_size = 20\n")
    monkeypatch.setenv(PREFIX + "THRESHOLD", "3")
    monkeypatch.setenv(PREFIX + "INTERVAL", "0.03")
    loaded = load_settings(threshold=4)
    settings = loaded.settings
    assert (settings.threshold, settings.interval, settings.queue_size) == (4.0, 0.03, 20)
    assert settings.max_samples == Settings().max_samples
    assert loaded.origins["threshold"] == "code"
    assert loaded.origins["interval"] == f"environment {PREFIX}INTERVAL"
    assert loaded.origins["queue_size"] == f"file {path}"
    assert loaded.origins["max_samples"] == "default"


def test_none_in_code_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """An optional argument that a caller passes on does not hide the environment."""
    monkeypatch.setenv(PREFIX + "THRESHOLD", "3")
    assert load_settings(threshold=None).settings.threshold == 3


def test_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An empty variable counts as unset, as OpenTelemetry's specification demands."""
    monkeypatch.setenv(PREFIX + "THRESHOLD", " ")
    monkeypatch.setenv(PREFIX + "CONFIG", "")
    assert load_settings().settings == Settings()
    assert not caplog.records


def test_wrong_in_code_raises() -> None:
    """A wrong value in code is the programmer's to see."""
    with pytest.raises(ConfigError, match="threshold"):
        load_settings(threshold=-1)


def test_unknown_in_code_raises_with_the_nearest() -> None:
    """A misspelt name in code raises, and the message tells the right one."""
    with pytest.raises(ConfigError, match="excluded_urls, the nearest name"):
        load_settings(exclude_url="x")
    with pytest.raises(ConfigError, match="one of enabled, threshold"):
        load_settings(zzzz=None)


def test_wrong_in_environment_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, use_file: UseFile
) -> None:
    """A wrong variable is one warning with name, value and what is allowed, and the next source holds."""
    use_file("s.json", '{"threshold": 2}')
    monkeypatch.setenv(PREFIX + "THRESHOLD", "soon\nforged line")
    loaded = load_settings()
    assert loaded.settings.threshold == 2
    [record] = caplog.records
    message = record.getMessage()
    assert record.levelno == logging.WARNING
    assert record.name.startswith("slowspan")
    assert PREFIX + "THRESHOLD is ignored" in message
    assert "'soon" in message
    assert "a number of seconds from 0 to 86400" in message
    assert "\n" not in message


def test_unknown_in_environment_warns_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt variable is one warning that tells the right name."""
    monkeypatch.setenv(PREFIX + "TRESHOLD", "3")
    assert load_settings().settings == Settings()
    [record] = caplog.records
    assert PREFIX + "TRESHOLD" in record.getMessage()
    assert "threshold, the nearest name" in record.getMessage()


def test_contradicting_environment_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, use_file: UseFile
) -> None:
    """A contradiction that the environment brings never raises: code stays, the next source is asked."""
    use_file("s.json", '{"interval": 0.2}')
    monkeypatch.setenv(PREFIX + "INTERVAL", "5")
    loaded = load_settings(hung_after=1)
    assert (loaded.settings.hung_after, loaded.settings.interval) == (1.0, 0.2)
    assert loaded.origins["interval"].startswith("file ")
    [record] = caplog.records
    assert PREFIX + "INTERVAL is ignored" in record.getMessage()


def test_contradiction_within_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When both sides come from the environment, both make way for the defaults."""
    monkeypatch.setenv(PREFIX + "INTERVAL", "5")
    monkeypatch.setenv(PREFIX + "HUNG_AFTER", "1")
    assert load_settings().settings == Settings()
    assert len(caplog.records) == 2


def test_contradiction_in_code_raises() -> None:
    """A contradiction between two settings in code is the programmer's to see."""
    with pytest.raises(ConfigError, match="hung_after"):
        load_settings(hung_after=1, interval=5)


def test_excluded_urls_of_all_instrumentations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own variable goes before OpenTelemetry's common one, which goes before the default."""
    monkeypatch.setenv("OTEL_PYTHON_EXCLUDED_URLS", "health,")
    loaded = load_settings()
    assert loaded.settings.excluded_urls == ("health",)
    assert loaded.origins["excluded_urls"] == "environment OTEL_PYTHON_EXCLUDED_URLS"
    monkeypatch.setenv(PREFIX + "EXCLUDED_URLS", "ping")
    assert load_settings().settings.excluded_urls == ("ping",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", 'threshold = 2\nspan_kinds = ["SERVER", "CONSUMER"]\n[thresholds]\n"/b" = 2\n"/a" = 1\n'),
        ("b.toml", '[slowspan]\nthreshold = 2\nspan_kinds = "server, consumer"\nthresholds = "/b=2, /a=1"\n'),
        (
            "pyproject.toml",
            "[project]\nname = 'x'\n[tool.slowspan]\nthreshold = 2\nspan_kinds = ['SERVER', 'CONSUMER']\n"
            "thresholds = [['/b', 2], ['/a', 1]]\n",
        ),
        ("a.yaml", "threshold: 2\nspan_kinds: [SERVER, CONSUMER]\nthresholds: {/b: 2, /a: 1}\n"),
        (
            "b.YML",
            "\ufeffslowspan:\n  threshold: 2\n  span_kinds: SERVER, CONSUMER\n  thresholds:\n    /b: 2\n    /a: 1\n",
        ),
        (
            "a.json",
            '{"threshold": 2, "span_kinds": ["SERVER", "CONSUMER"], "thresholds": {"/b": 2, "/a": 1}}',
        ),
    ],
)
def test_files(use_file: UseFile, caplog: pytest.LogCaptureFixture, name: str, text: str) -> None:
    """TOML, YAML and JSON give the same settings, at the top or in a table of their own, in order."""
    use_file(name, text)
    settings = load_settings().settings
    assert settings.threshold == 2
    assert settings.span_kinds == ("SERVER", "CONSUMER")
    assert settings.thresholds == (("/b", 2.0), ("/a", 1.0))
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.toml", "threshold = ", "TOMLDecodeError"),
        ("a.json", "{", "JSONDecodeError"),
        ("a.json", "[1]", "a table of settings"),
        ("a.yaml", "a: [", "Error"),
        ("a.ini", "threshold = 2", "must end in .toml"),
    ],
)
def test_broken_files_are_one_warning(
    use_file: UseFile, caplog: pytest.LogCaptureFixture, name: str, text: str, part: str
) -> None:
    """A file that cannot be read is one line in the log, and the defaults hold."""
    path = use_file(name, text)
    assert load_settings().settings == Settings()
    [record] = caplog.records
    assert str(path) in record.getMessage()
    assert part in record.getMessage()
    assert "\n" not in record.getMessage()


def test_missing_file_is_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is not there is one line in the log, and the defaults hold."""
    monkeypatch.setenv(PREFIX + "CONFIG", "/nowhere/slowspan.toml")
    assert load_settings().settings == Settings()
    assert "/nowhere/slowspan.toml" in caplog.text


def test_empty_file(use_file: UseFile, caplog: pytest.LogCaptureFixture) -> None:
    """An empty file sets nothing, and is no error."""
    use_file("a.yaml", "")
    assert load_settings().settings == Settings()
    assert not caplog.records


def test_yaml_without_its_parser(
    use_file: UseFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A YAML file without PyYAML is a warning that names what to install."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    use_file("a.yaml", "threshold: 2")
    assert load_settings().settings == Settings()
    assert "pip install 'slowspan[yaml]'" in caplog.text


if sys.version_info < (3, 11):  # later Pythons bring the parser

    def test_toml_without_its_parser(
        use_file: UseFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A TOML file without tomli is a warning that names what to install."""
        monkeypatch.setitem(sys.modules, "tomli", None)
        use_file("a.toml", "threshold = 2")
        assert load_settings().settings == Settings()
        assert "pip install 'slowspan[toml]'" in caplog.text


def test_wrong_and_unknown_in_a_file(use_file: UseFile, caplog: pytest.LogCaptureFixture) -> None:
    """Each wrong or unknown entry of a file is one warning that names the file; the rest of it holds."""
    path = use_file("a.yaml", "threshold: -1\ntreshold: 3\n7: x\nqueue_size: 20\n")
    assert load_settings().settings == dataclasses.replace(Settings(), queue_size=20)
    assert len(caplog.records) == 3
    assert all(f"file {path} is ignored" in record.getMessage() for record in caplog.records)


def test_declared_settings_never_raise(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """OpenTelemetry's declarative file goes before the environment; what is wrong in it is a warning."""
    monkeypatch.setenv(PREFIX + "THRESHOLD", "3")
    monkeypatch.setenv(PREFIX + "INTERVAL", "0.03")
    declared = {"threshold": 0.5, "interval": "often", "treshold": 1, "hung_after": None}
    loaded = load_declared_settings(declared, "OpenTelemetry's configuration")
    assert (loaded.settings.threshold, loaded.settings.interval) == (0.5, 0.03)
    assert loaded.origins["threshold"] == "OpenTelemetry's configuration"
    assert len(caplog.records) == 2


def test_every_setting_has_its_variable() -> None:
    """Every setting, and the file, has a variable that becomes a command-line flag by its name."""
    names = {name: value for name, value in vars(environment_variables).items() if name.isupper()}
    assert names == {PREFIX + name.upper(): PREFIX + name.upper() for name in (*SETTING_NAMES, "config")}


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting each variable to its default's text gives the default, from the environment."""
    settings = Settings()
    for name in SETTING_NAMES:
        value = getattr(settings, name)
        if value and name != "redacted_parameters":
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            monkeypatch.setenv(PREFIX + name.upper(), text)
    loaded = load_settings()
    assert loaded.settings == settings
    assert sum(origin.startswith("environment") for origin in loaded.origins.values()) >= 18


def test_what_is_imported() -> None:
    """Loading the settings imports no parser, nor anything else that is slow and seldom needed."""
    code = (
        "import sys, opentelemetry.sdk.trace\n"
        "before = set(sys.modules)\n"
        "import slowspan.config_sources, slowspan.selection, slowspan.trigger, slowspan.semconv\n"
        "heavy = {'tempfile', 'difflib', 'yaml', 'tomllib', 'opentelemetry.util.http', 'email', 'http',"
        " 'asyncio', 'subprocess', 'pyinstrument', 'flask', 'sqlite3'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"
