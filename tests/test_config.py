"""Settings: defaults, normal forms, ranges, contradictions and messages."""

from __future__ import annotations

import dataclasses
import pickle
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from slowspan.config import SETTING_NAMES, ConfigError, Settings, default_report_dir, read_setting
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
    """The documentation has a row for every setting, with its variable and its true default."""
    document = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `OTEL_PYTHON_SLOWSPAN_\w+` \| ([^|]*) \|", document, re.MULTILINE))
    variables = dict(re.findall(r"^\| `(\w+)` \| `(OTEL_PYTHON_SLOWSPAN_\w+)` \|", document, re.MULTILINE))
    assert variables == {name: f"OTEL_PYTHON_SLOWSPAN_{name.upper()}" for name in SETTING_NAMES}
    settings = Settings()
    for name in set(SETTING_NAMES) - {"report_dir", "redacted_parameters"}:
        default = getattr(settings, name)
        shown = rows[name].strip("`")
        assert (read_setting(name, shown) == default) if shown != "not set" else default in ((), None)
