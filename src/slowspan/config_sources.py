"""Where settings come from: code, then the environment, then a file, then the defaults."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from slowspan.config import SETTING_NAMES, ConfigError, Settings, read_setting
from slowspan.environment_variables import OTEL_PYTHON_SLOWSPAN_CONFIG
from slowspan.redaction import one_line

_logger = logging.getLogger(__name__)

_MESSAGE_LIMIT = 1000
_PREFIX = "OTEL_PYTHON_SLOWSPAN_"
_COMMON_EXCLUDED_URLS = "OTEL_PYTHON_EXCLUDED_URLS"


class LoadedSettings(NamedTuple):
    """Settings, and where each of them came from."""

    settings: Settings
    origins: Mapping[str, str]
    """For every setting ``code``, ``environment OTEL_PYTHON_SLOWSPAN_…``, ``file /path`` or ``default``."""


class _Given(NamedTuple):
    """A value that one source gives for one name, which may be unknown or wrong."""

    name: str
    value: object
    origin: str
    strict: bool = False
    """Whether an error in it is the programmer's, who is there to see it raised."""


def load_settings(**code: Any) -> LoadedSettings:
    """Put the settings together from all sources.

    Precedence, highest first: ``code``, the environment, the file that ``OTEL_PYTHON_SLOWSPAN_CONFIG`` names,
    the defaults. A value of None in ``code`` counts as not given. Whatever is wrong or unknown in the
    environment or in the file is logged as one warning and left out, so that the next source holds.

    Args:
        **code: Settings by name.

    Returns:
        The settings with their origins.

    Raises:
        ConfigError: A setting in ``code`` is wrong or unknown.
    """
    return _load(_Given(name, value, "code", strict=True) for name, value in code.items())


def load_declared_settings(declared: Mapping[str, object], origin: str) -> LoadedSettings:
    """Put the settings together as ``load_settings`` does, but never raise for a wrong or unknown one.

    For settings that reach code although no programmer wrote them there: OpenTelemetry's declarative file.

    Args:
        declared: Settings by name, which take precedence over the environment.
        origin: Where they come from, for warnings and for ``LoadedSettings.origins``.

    Returns:
        The settings with their origins.
    """
    return _load(_Given(name, value, origin) for name, value in declared.items())


def _load(first: Iterator[_Given]) -> LoadedSettings:
    usable = [given for given in (*first, *_from_environment(), *_from_file()) if _is_usable(given)]
    while True:
        chosen: dict[str, _Given] = {}
        for given in usable:
            chosen.setdefault(given.name, given)
        try:
            settings = Settings(**{name: given.value for name, given in chosen.items()})  # type: ignore[arg-type]
        except ConfigError as error:
            # They contradict each other: those that no programmer wrote make way for the next source.
            parties = [chosen[name] for name in (error.setting, *error.related) if name in chosen]
            doubtful = [given for given in parties if not given.strict]
            if not doubtful:
                raise
            for given in doubtful:
                _ignore(given, error)
            usable = [given for given in usable if given not in doubtful]
        else:
            origins = {name: chosen[name].origin if name in chosen else "default" for name in SETTING_NAMES}
            return LoadedSettings(settings=settings, origins=origins)


def _is_usable(given: _Given) -> bool:
    try:
        if given.name not in SETTING_NAMES:
            raise ConfigError(given.name, given.value, _nearest(given.name), problem="is unknown")
        if given.value is None:
            return False
        read_setting(given.name, given.value)
    except ConfigError as error:
        if given.strict:
            raise
        _ignore(given, error)
        return False
    return True


def _ignore(given: _Given, error: ConfigError) -> None:
    _logger.warning("%s", one_line(f"{given.origin} is ignored: {error}", _MESSAGE_LIMIT))


def _nearest(name: str) -> str:
    # Imported here because it is slow to import, and only misspelt names need it.
    from difflib import get_close_matches

    matches = get_close_matches(name.lower(), SETTING_NAMES, n=1)
    return f"{matches[0]}, the nearest name" if matches else f"one of {', '.join(SETTING_NAMES)}"


def _from_environment() -> Iterator[_Given]:
    for variable, text in sorted(os.environ.items()):
        # An empty variable counts as unset: the OpenTelemetry specification.
        if variable.startswith(_PREFIX) and variable != OTEL_PYTHON_SLOWSPAN_CONFIG and text.strip():
            yield _Given(variable.removeprefix(_PREFIX).lower(), text, f"environment {variable}")
    common = os.environ.get(_COMMON_EXCLUDED_URLS, "")
    if common.strip():
        yield _Given("excluded_urls", common, f"environment {_COMMON_EXCLUDED_URLS}")


def _from_file() -> Iterator[_Given]:
    name = os.environ.get(OTEL_PYTHON_SLOWSPAN_CONFIG, "").strip()
    if not name:
        return
    try:
        path = Path(name).expanduser().absolute()
        table = _table(_parse(path))
    except Exception as error:  # noqa: BLE001 - parsers raise all sorts, and a file must never stop the application
        problem = f"the settings file {name} is ignored: {type(error).__name__}: {error}"
        _logger.warning("%s", one_line(problem, _MESSAGE_LIMIT))
        return
    for setting, value in table.items():
        yield _Given(str(setting), value, f"file {path}")


def _parse(path: Path) -> object:
    text = path.read_text(encoding="utf-8-sig")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return json.loads(text)
    if suffix == ".toml":
        return _parse_toml(text)
    if suffix in {".yaml", ".yml"}:
        return _parse_yaml(text)
    raise ValueError("its name must end in .toml, .yaml, .yml or .json")


def _parse_toml(text: str) -> object:
    # Imported here because few have such a file, and on 3.10 the parser is an extra.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            raise ImportError("TOML needs tomli on Python 3.10: pip install 'slowspan[toml]'") from None
    return tomllib.loads(text)


def _parse_yaml(text: str) -> object:
    try:
        # Imported here because it is an extra.
        import yaml
    except ImportError:
        raise ImportError("YAML needs PyYAML: pip install 'slowspan[yaml]'") from None
    return yaml.safe_load(text)


def _table(document: object) -> Mapping[object, object]:
    """Find the settings in a document: under ``tool.slowspan``, ``slowspan`` or at the top."""
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise TypeError("it must hold a table of settings")
    tool = document.get("tool")
    for holder in (tool, document):
        if isinstance(holder, Mapping) and isinstance(holder.get("slowspan"), Mapping):
            table: Mapping[object, object] = holder["slowspan"]
            return table
    return document
