"""Settings: defaults, normal forms, ranges, contradictions and messages."""

from __future__ import annotations

import dataclasses
import pickle
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from slowspan.config import SETTING_NAMES, ConfigError, Settings, default_report_dir, read_setting
from slowspan.config_secrets import FILE_NAMES, SECRET_NAMES, shown
from slowspan.redaction import DEFAULT_REDACTED_PARAMETERS

PLAIN_DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def make(**values: Any) -> Settings:
    return Settings(**values)


def test_every_field_has_a_reader() -> None:
    """No setting is accepted unchecked, and the order of the names is that of the fields."""
    assert tuple(field.name for field in dataclasses.fields(Settings)) == SETTING_NAMES


def test_defaults_are_in_normal_form() -> None:
    """What the defaults hold is what reading them again gives, so that no default is wrong."""
    settings = Settings()
    for name in SETTING_NAMES:
        assert read_setting(name, getattr(settings, name)) == getattr(settings, name)


def test_settings_are_frozen_and_hashable() -> None:
    """Settings can be shared by threads and used as a key."""
    assert hash(Settings()) == hash(Settings())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().threshold = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "given_value", "normal"),
    [
        ("enabled", "off", False),
        ("enabled", " TRUE ", True),
        ("threshold", "0.5", 0.5),
        ("threshold", 2, 2.0),
        ("thresholds", "/reports/.*=5, /api/.*=0.3,", (("/reports/.*", 5.0), ("/api/.*", 0.3))),
        ("thresholds", {"/a": 1, "/b": "2"}, (("/a", 1.0), ("/b", 2.0))),
        ("thresholds", [["/a", 1]], (("/a", 1.0),)),
        ("thresholds", "/search?full=1=5", (("/search?full=1", 5.0),)),
        ("engine", "INLINE", "inline"),
        ("span_kinds", "server, consumer, server", ("SERVER", "CONSUMER")),
        ("span_kinds", [SpanKind.CONSUMER], ("CONSUMER",)),
        ("excluded_urls", "health,", ("health",)),
        ("excluded_urls", ["a{1,3}", ""], ("a{1,3}",)),
        ("included_attributes", "tenant = acme, beta", ("tenant = acme", "beta")),
        ("retention_bytes", "500e6", 500_000_000),
        ("redacted_parameters", "default, iban", (*DEFAULT_REDACTED_PARAMETERS, "iban")),
        ("redacted_parameters", [], ()),
        ("notifiers", "none", ()),
        ("notifiers", "log, file, log", ("log", "file")),
        ("report_url", "https://r.example/{file}", "https://r.example/{file}"),
        ("report_dir", "~/reports", Path.home() / "reports"),
        ("report_dir", Path("reports"), Path.cwd() / "reports"),
        ("alert_window", " 10D ", 864_000.0),
        ("alert_window", "1.5 h", 5400.0),
        ("alert_window", "600", 600.0),
        ("alert_key", "", ()),
        ("alert_key", "endpoint", ()),
        ("alert_key", "endpoint, hot_line", ("hot_line",)),
        ("alert_key", "?page, ?Size, ?page, HOT_LINE", ("?page", "?Size", "hot_line")),
        ("alert_key", ["?a,b"], ("?a,b",)),
        ("alert_store", " redis+sentinel://:key@a:1,b:2/main ", "redis+sentinel://:key@a:1,b:2/main"),
        ("alert_store", "memory://", "memory://"),
        (
            "apprise_urls",
            "slack://a/b, json://h?to=a@b,c@d\nmailto://x,",
            ("slack://a/b", "json://h?to=a@b,c@d", "mailto://x"),
        ),
        ("apprise_urls", ["json://h?next=,http://x", "json://h?next=,http://x"], ("json://h?next=,http://x",)),
        ("apprise_urls", "", ()),
        ("webhook_url", "https://user:key@h.example/x/?y=1", "https://user:key@h.example/x/?y=1"),
    ],
)
def test_normal_forms(name: str, given_value: object, normal: object) -> None:
    """Text, lists and mappings, as the environment and files give them, become the normal form."""
    assert getattr(make(**{name: given_value}), name) == normal


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enabled", "maybe"),
        ("enabled", 1),
        ("threshold", -1),
        ("threshold", float("nan")),
        ("threshold", float("inf")),
        ("threshold", "soon"),
        ("threshold", True),
        ("threshold", None),
        ("threshold", 10**400),
        ("thresholds", "/a"),
        ("thresholds", "=1"),
        ("thresholds", "/a=-1"),
        ("thresholds", "[=1"),
        ("thresholds", {"/a": None}),
        ("thresholds", [["/a", 1, 2]]),
        ("thresholds", 5),
        ("engine", "gpu"),
        ("interval", 0),
        ("overhead_budget", 2),
        ("span_kinds", ()),
        ("span_kinds", "REQUEST"),
        ("excluded_urls", "["),
        ("excluded_urls", [1]),
        ("excluded_urls", {"a": 1}),
        ("excluded_urls", "(" * 20_000),
        ("included_urls", ["(?P<a>x)", "(?P<a>y)"]),
        ("excluded_attributes", "=x"),
        ("excluded_attributes", "a=["),
        ("report_dir", ""),
        ("report_dir", "a\0b"),
        ("report_dir", "~nobody-of-this-name/x"),
        ("report_dir", 7),
        ("retention_count", 1.5),
        ("retention_bytes", 10),
        ("report_url", "javascript:alert(1)"),
        ("report_url", "https://r.example/{trace_id}"),
        ("report_url", "https://r.example/{id.__class__}"),
        ("report_url", "https://r.example/{id!r}"),
        ("report_url", "https://r.example/{"),
        ("report_url", "https://r.example/\n"),
        ("trace_url", "https://r.example/{}"),
        ("notifiers", "fi/le"),
        ("notifiers", 3),
        ("max_samples", 1),
        ("queue_size", 0),
        ("flush_timeout", -1),
        ("alert_window", "30s"),
        ("alert_window", "3651d"),
        ("alert_window", "d"),
        ("alert_window", "nan"),
        ("alert_window", "2 weeks"),
        ("alert_key", "parameter"),
        ("alert_key", "?"),
        ("alert_key", "?" + "x" * 65),
        ("alert_key", [1]),
        ("alert_key", {"parameters": 1}),
        ("realert_ratio", 0.5),
        ("alerts_per_hour", 0),
        ("alerts_per_hour", 10_001),
        ("reports_per_hour", 1.5),
        ("notify_timeout", 0),
        ("notify_timeout", "soon"),
        ("mattermost_url", "chat.example"),
        ("mattermost_url", "ftp://chat.example"),
        ("mattermost_url", "https:///api"),
        ("mattermost_url", "https://chat.example:port"),
        ("mattermost_url", "https://[::1"),
        ("mattermost_url", "https://chat.example/?x=1"),
        ("mattermost_url", "https://chat.example/#x"),
        ("mattermost_channel", "Town Square"),
        ("mattermost_channel", "shop/"),
        ("mattermost_channel", "shop/channels/town-square"),
        ("mattermost_login", "a b"),
        ("mattermost_ca_file", ""),
        ("mattermost_threads", "maybe"),
    ],
)
def test_wrong_values_are_refused(name: str, value: object) -> None:
    """A wrong value raises an error that carries and names the setting, the value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        make(**{name: value})
    error = caught.value
    assert (error.setting, error.value) == (name, value) or value != value
    assert error.allowed
    assert name in str(error)
    assert repr(value)[:100] in str(error)
    assert error.allowed in str(error)


def test_flags_that_only_compile_alone_are_refused() -> None:
    """Patterns are joined with "|", so what breaks only then is refused at set-up, not later."""
    assert make(excluded_urls="(?i)health").excluded_urls == ("(?i)health",)
    assert make(excluded_urls="ping, (?i:health)").excluded_urls == ("ping", "(?i:health)")
    with pytest.raises(ConfigError, match="joined"):
        make(excluded_urls="(?P<a>x), (?P<a>y)")


def test_contradiction_names_both_settings() -> None:
    """A partial report before the first sample would be empty; the error tells which settings disagree."""
    with pytest.raises(ConfigError) as caught:
        make(hung_after=0.5, interval=1)
    assert caught.value.setting == "hung_after"
    assert caught.value.related == ("interval",)


def test_errors_survive_pickling() -> None:
    """A process pool can hand the error over with all that it carries."""
    error = ConfigError("threshold", -1, "more", problem="is unknown", related=("interval",))
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert copy.related == ("interval",)


MATTERMOST = {"mattermost_url": "https://chat.example/sub/", "mattermost_channel": "shop/town-square"}
TOKEN = {"mattermost_token": "k" * 26}


@pytest.mark.parametrize(
    "values",
    [
        {**MATTERMOST, **TOKEN},
        {
            **MATTERMOST,
            **TOKEN,
            "mattermost_channel": "abcdefghijklmnopqrstuvwxy1",
            "mattermost_proxy": "http://u:p@x:1",
        },
        {
            **MATTERMOST,
            "mattermost_login": "bot@shop.example",
            "mattermost_password": " p w ",
            "mattermost_ca_file": "/ca",
        },
    ],
)
def test_whole_mattermost_settings(values: dict[str, str]) -> None:
    """A server with a channel and one way to log in is enough, and switches the channel on."""
    settings = make(**values)
    assert settings.mattermost_url == "https://chat.example/sub"
    assert settings.mattermost_password == values.get("mattermost_password")
    assert settings.notifiers == ("file", "log", "mattermost")


@pytest.mark.parametrize(
    ("values", "setting", "part"),
    [
        ({**TOKEN, "mattermost_url": "https://chat.example"}, "mattermost_url", "mattermost_channel"),
        (MATTERMOST, "mattermost_url", "mattermost_token, or mattermost_login and mattermost_password"),
        ({**MATTERMOST, "mattermost_login": "bot"}, "mattermost_url", "mattermost_password"),
        ({**MATTERMOST, "mattermost_password": "pw"}, "mattermost_url", "mattermost_login"),
        ({**MATTERMOST, **TOKEN, "mattermost_login": "bot"}, "mattermost_token", "mattermost_login"),
        ({**MATTERMOST, **TOKEN, "mattermost_password": "pw"}, "mattermost_token", "mattermost_password"),
        (TOKEN, "mattermost_token", "mattermost_url"),
        ({"mattermost_channel": "shop/town-square"}, "mattermost_channel", "mattermost_url"),
        ({"mattermost_ca_file": "/ca.pem"}, "mattermost_ca_file", "mattermost_url"),
        ({"mattermost_proxy": "http://proxy.example"}, "mattermost_proxy", "mattermost_url"),
        ({"webhook_secret": "pw"}, "webhook_secret", "webhook_url"),
    ],
)
def test_incomplete_channels_are_refused(values: dict[str, str], setting: str, part: str) -> None:
    """A channel that could never deliver is an error that names what is missing, or what is too much."""
    with pytest.raises(ConfigError) as caught:
        make(**values)
    assert caught.value.setting == setting
    assert part in str(caught.value)


def test_configured_channels_are_on() -> None:
    """Unless somebody says which notifiers are on, each configured channel is."""
    channels = {"webhook_url": "https://h.example", "apprise_urls": "json://h.example"}
    assert make().notifiers == ("file", "log")
    assert make(**channels).notifiers == ("file", "log", "apprise", "webhook")
    assert make(**channels, notifiers="log, webhook").notifiers == ("log", "webhook")
    assert make(**channels, notifiers="none").notifiers == ()


SECRETS: dict[str, object] = {
    "mattermost_token": "hunter2-token",
    "mattermost_password": "hunter2 password",
    "mattermost_proxy": "http://user:hunter2@proxy.example",
    "apprise_urls": ("slack://hunter2/b",),
    "webhook_url": "https://h.example/hunter2",
    "webhook_secret": "hunter2",
    "alert_store": "redis://:hunter2@cache.example",
}


def test_secrets_are_not_in_repr() -> None:
    """Whoever logs the settings logs no secret, but sees which are set."""
    assert SECRETS.keys() == SECRET_NAMES
    login = {name: SECRETS[name] for name in SECRETS if name != "mattermost_token"}
    settings = [make(**MATTERMOST, **login, mattermost_login="bot"), make(**MATTERMOST, **TOKEN)]
    assert "hunter2" not in repr(settings)
    assert TOKEN["mattermost_token"] not in repr(settings)
    for name in SECRETS:
        assert f"{name}=[hidden]" in repr(settings)
    assert "mattermost_token=None" in repr(settings)
    assert "apprise_urls=()" in repr(settings)
    assert shown("threshold", 1.0) == "1.0"


@pytest.mark.parametrize("name", sorted(SECRET_NAMES))
@pytest.mark.parametrize("wrong", [7, "hunter2\nhunter2", ["hunter2", "x://\0"], {"hunter2": 1}, b"hunter2", ""])
def test_secrets_are_not_in_errors(name: str, wrong: object) -> None:
    """No error on a secret quotes it, however wrong it is, nor carries it for an error tracker to show."""
    if (name, wrong) == ("apprise_urls", ""):
        return
    with pytest.raises(ConfigError) as caught:
        make(**{name: wrong})
    error = caught.value
    assert error.setting == name
    assert "hunter2" not in f"{error} {error!r} {vars(error)}"
    assert "[hidden]" in str(pickle.loads(pickle.dumps(error)))
    assert error.__suppress_context__


@pytest.mark.parametrize("name", ["mattermost_url", "report_url", "trace_url"])
def test_logins_in_urls_are_not_in_errors(name: str) -> None:
    """A URL with a login is not quoted where it is refused."""
    with pytest.raises(ConfigError) as caught:
        make(**{name: "https://user:hunter2@host.example/{no}"})
    assert "hunter2" not in f"{caught.value} {caught.value!r}"


@given(amount=st.floats(0, 1e9), unit=st.sampled_from(["", "s", "m", "h", "d", " H"]))
def test_durations(amount: float, unit: str) -> None:
    """A duration is its number times its unit, and what is out of range is refused."""
    seconds = amount * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[unit.strip().lower()]
    if 60 <= seconds <= 3650 * 86_400:
        assert read_setting("alert_window", f"{amount!r}{unit}") == pytest.approx(seconds)
    else:
        with pytest.raises(ConfigError):
            read_setting("alert_window", f"{amount!r}{unit}")


# What stands behind "://": anything but whitespace at its ends, and another URL behind a comma or a space.
URL_TAIL = st.from_regex(r"[a-z0-9/?=&@%]([a-z0-9/?=&@,% ]{0,30}[a-z0-9/?=&@%])?", fullmatch=True)
URLS = st.lists(st.builds("{}://{}".format, st.sampled_from(["json", "o365", "MAILTO"]), URL_TAIL), unique=True)


@given(urls=URLS, separator=st.sampled_from([",", ", ", "\n", " ", " ,\r\n\t"]))
def test_url_lists(urls: list[str], separator: str) -> None:
    """A text of URLs is split where it was joined, whatever commas and spaces the URLs hold themselves."""
    assert read_setting("apprise_urls", separator.join(urls)) == tuple(urls)
    assert read_setting("apprise_urls", urls) == tuple(urls)


def test_url_lists_take_linear_time() -> None:
    """A long row of separators, as a broken template leaves it, is read at once."""
    started = time.process_time()
    assert len(make(apprise_urls="json://a" + ", " * 200_000 + "b").apprise_urls) == 1
    with pytest.raises(ConfigError):
        make(apprise_urls="a" * 400_000)
    assert time.process_time() - started < 5


def test_long_values_are_cut_in_messages() -> None:
    """A message stays short whatever the value."""
    assert len(str(ConfigError("engine", "x" * 10_000, "thread"))) < 400


def test_nanoseconds() -> None:
    """Sampling starts at a tenth of the smallest threshold at the latest."""
    settings = make(threshold=1, thresholds={"/api/.*": 0.3})
    assert settings.threshold_ns == 1_000_000_000
    assert settings.min_threshold_ns == 300_000_000
    assert settings.start_after_ns == 30_000_000
    assert make(start_after=0.01).start_after_ns == 10_000_000
    assert make(threshold=0.2, thresholds={"/slow": 9}).min_threshold_ns == 200_000_000


def test_default_report_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is the user's own, and a machine without any writable directory still gets settings."""
    directory = default_report_dir()
    assert directory.parent == Path(tempfile.gettempdir())
    assert directory.name.startswith("slowspan-")

    def no_directory() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", no_directory)
    assert Settings().report_dir.name == directory.name


@given(name=st.sampled_from(SETTING_NAMES), value=PLAIN_DATA)
def test_any_data_is_read_or_refused(name: str, value: object) -> None:
    """Whatever an environment or a file can hold is either a setting or a ConfigError, and nothing else."""
    try:
        normal = read_setting(name, value)
    except ConfigError:
        return
    assert read_setting(name, normal) == normal


def test_documentation_is_complete() -> None:
    """The documentation has a row for every setting and secret file, with its variable, and true defaults."""
    document = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `OTEL_PYTHON_SLOWSPAN_\w+` \| ([^|]*) \|", document, re.MULTILINE))
    variables = dict(re.findall(r"^\| `(\w+)` \| `(OTEL_PYTHON_SLOWSPAN_\w+)` \|", document, re.MULTILINE))
    assert variables == {name: f"OTEL_PYTHON_SLOWSPAN_{name.upper()}" for name in (*SETTING_NAMES, *FILE_NAMES)}
    settings = Settings()
    for name in set(SETTING_NAMES) - {"report_dir", "redacted_parameters"}:
        default = getattr(settings, name)
        shown = rows[name].strip("`")
        assert (read_setting(name, shown) == default) if shown != "not set" else default in ((), None)
