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
from slowspan.config_secrets import FILE_NAMES, MAX_SECRET_FILE
from slowspan.config_sources import load_declared_settings, load_settings

PREFIX = "OTEL_PYTHON_SLOWSPAN_"

UseFile = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTING_NAMES, *FILE_NAMES, "config"):
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
    [record] = caplog.records
    assert f"environment {PREFIX}HUNG_AFTER), interval (environment {PREFIX}INTERVAL) are ign" in record.getMessage()


def test_contradiction_between_environment_and_file(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, use_file: UseFile
) -> None:
    """The source of the lower precedence makes way, alone."""
    use_file("s.json", '{"hung_after": 1}')
    monkeypatch.setenv(PREFIX + "INTERVAL", "5")
    settings = load_settings().settings
    assert (settings.interval, settings.hung_after) == (5, Settings().hung_after)
    assert len(caplog.records) == 1


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


@pytest.mark.parametrize(
    "text", ["[project]\nname = 'shop'\n[tool.ruff]\nline-length = 120\n", "[tool.ruff]\n", "[build-system]\n"]
)
def test_pyproject_without_the_table_is_one_short_warning(
    use_file: UseFile, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """A ``pyproject.toml`` that says nothing of slowspan is told as that, not as a file of unknown settings."""
    path = use_file("pyproject.toml", text)
    assert load_settings().settings == Settings()
    assert caplog.messages == [f"the settings file {path} is ignored: ValueError: it has no table tool.slowspan"]


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
    assert names == {PREFIX + name.upper(): PREFIX + name.upper() for name in (*SETTING_NAMES, *FILE_NAMES, "config")}


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


@pytest.fixture
def mattermost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a server and a channel in the environment, but no way to log in; and a threshold."""
    monkeypatch.setenv(PREFIX + "MATTERMOST_URL", "https://chat.example")
    monkeypatch.setenv(PREFIX + "MATTERMOST_CHANNEL", "shop/town-square")
    monkeypatch.setenv(PREFIX + "THRESHOLD", "3")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return the path of a file that holds a token."""
    path = tmp_path / "token"
    path.write_text("\ufeff hunter2\n", encoding="utf-8")
    return path


@pytest.mark.usefixtures("mattermost")
def test_incomplete_mattermost_is_off_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """Without a way to log in there is one warning, no Mattermost, and all other settings hold."""
    settings = load_settings(webhook_url="https://h.example").settings
    assert (settings.mattermost_url, settings.mattermost_channel, settings.threshold) == (None, None, 3)
    assert settings.notifiers == ("file", "log", "webhook")
    [record] = caplog.records
    assert f"mattermost_url (environment {PREFIX}MATTERMOST_URL)" in record.getMessage()
    assert "together with mattermost_token, or mattermost_login" in record.getMessage()


@pytest.mark.usefixtures("mattermost")
def test_contradicting_mattermost_is_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Token and password from the same source both make way, and no warning shows them."""
    monkeypatch.setenv(PREFIX + "MATTERMOST_TOKEN", "hunter2")
    monkeypatch.setenv(PREFIX + "MATTERMOST_PASSWORD", "hunter2")
    assert load_settings().settings == dataclasses.replace(Settings(), threshold=3)
    assert "mattermost_token = '[hidden]' contradicts mattermost_password" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.usefixtures("mattermost")
def test_token_goes_before_a_login_of_lower_precedence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, use_file: UseFile
) -> None:
    """A token in the environment takes the place of the file's login, with a warning."""
    use_file("s.json", '{"mattermost_login": "bot", "mattermost_password": "hunter2"}')
    monkeypatch.setenv(PREFIX + "MATTERMOST_TOKEN", "token")
    settings = load_settings().settings
    assert (settings.mattermost_token, settings.mattermost_login) == ("token", None)
    assert "mattermost" in settings.notifiers
    assert len(caplog.records) == 1
    assert "hunter2" not in caplog.text


def test_wrong_environment_does_not_make_code_raise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A secret that is not mounted switches the channel that code set up off; a forgotten one raises."""
    code = {"mattermost_url": "https://chat.example", "mattermost_channel": "shop/town-square"}
    with pytest.raises(ConfigError, match="not enough for Mattermost"):
        load_settings(**code)
    monkeypatch.setenv(PREFIX + "MATTERMOST_TOKEN_FILE", "/nowhere/token")
    assert load_settings(**code).settings == Settings()
    assert len(caplog.records) == 2
    assert "mattermost_url (code), mattermost_channel (code) are ignored" in caplog.text


@pytest.mark.usefixtures("mattermost")
def test_secret_from_a_file(monkeypatch: pytest.MonkeyPatch, secret: Path, use_file: UseFile) -> None:
    """Environment, settings file and code can all name a secret's file, and the origin tells it."""
    use_file("s.json", f'{{"mattermost_token_file": "{secret}"}}')
    loaded = load_settings()
    assert loaded.settings.mattermost_token == "hunter2"
    assert loaded.origins["mattermost_token"].startswith(f"file {secret} (file ")
    monkeypatch.setenv(PREFIX + "MATTERMOST_TOKEN_FILE", str(secret))
    assert load_settings().origins["mattermost_token"] == (f"file {secret} (environment {PREFIX}MATTERMOST_TOKEN_FILE)")
    loaded = load_settings(mattermost_token_file=secret, webhook_url_file=None)
    assert loaded.origins["mattermost_token"] == f"file {secret} (code)"
    assert loaded.settings.notifiers == ("file", "log", "mattermost")
    assert load_settings(mattermost_token="other").settings.mattermost_token == "other"


def test_urls_from_a_file(tmp_path: Path) -> None:
    """A file of Apprise URLs has one a line."""
    path = tmp_path / "urls"
    path.write_text("slack://a/b\njson://h?to=a@b,c@d\n")
    settings = load_settings(apprise_urls_file=str(path)).settings
    assert settings.apprise_urls == ("slack://a/b", "json://h?to=a@b,c@d")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "it is empty"),
        (b"hunter2\xff", "no UTF-8"),
        (b"hunter2" * MAX_SECRET_FILE, "more than 65536 bytes"),
        (b"hunter2 hunter2", "a file with a wrong mattermost_token"),
        (None, "it cannot be read: No such file or directory"),
    ],
)
def test_broken_secret_files(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, content: bytes | None, part: str
) -> None:
    """A secret's file that is of no use is an error in code and else a warning, naming setting and path."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=part) as caught:
        load_settings(mattermost_token_file=str(path))
    assert caught.value.setting == "mattermost_token_file"
    assert str(path) in str(caught.value)
    monkeypatch.setenv(PREFIX + "MATTERMOST_TOKEN_FILE", str(path))
    assert load_settings().settings == Settings()
    [record] = caplog.records
    assert part in record.getMessage()
    assert str(path) in record.getMessage()
    assert "hunter2" not in f"{caplog.text} {caught.value!r}"


def test_secret_given_twice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, secret: Path, use_file: UseFile
) -> None:
    """One source gives a secret as it is or by a file; two sources have their precedence."""
    with pytest.raises(ConfigError, match="is given twice; allowed: either webhook_secret or"):
        load_settings(webhook_secret="hunter2", webhook_secret_file=secret)
    use_file("s.json", '{"alert_store": "redis://c.example"}')
    monkeypatch.setenv(PREFIX + "ALERT_STORE", "redis://:hunter2@a.example")
    secret.write_text("redis://:hunter2@b.example")
    monkeypatch.setenv(PREFIX + "ALERT_STORE_FILE", str(secret))
    assert load_settings().settings.alert_store == "redis://c.example"
    assert "either alert_store or alert_store_file" in caplog.text
    assert "hunter2" not in caplog.text
    assert load_settings(alert_store="memory://").settings.alert_store == "memory://"


def test_secrets_by_wrong_names_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A secret stays hidden under a misspelt name, and where a path should stand."""
    monkeypatch.setenv(PREFIX + "MATTERMOST_TOKN", "hunter2")
    monkeypatch.setenv(PREFIX + "WEBHOOK_SECRET_FILE", "hunter2")
    monkeypatch.setenv(PREFIX + "APPRISE_URLS_FILE", "slack://hunter2")
    monkeypatch.setenv(PREFIX + "WEBHOOK_URL", "hunter2")
    assert load_settings().settings == Settings()
    assert len(caplog.records) == 4
    assert "mattermost_token, the nearest name" in caplog.text
    assert "hunter2" not in caplog.text
    with pytest.raises(ConfigError) as caught:
        load_settings(webhook_secrets="hunter2")
    assert "hunter2" not in f"{caught.value!r} {caught.value}"
