"""Where settings come from: code, then the environment, then a file, then the defaults."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slowspan import config_values
from slowspan.config import SETTING_NAMES, ConfigError, Settings, read_setting
from slowspan.config_secrets import FILE_NAMES, FILE_SECRETS, FILE_SUFFIX, HIDDEN, read_secret_file
from slowspan.environment_variables import OTEL_PYTHON_SLOWSPAN_CONFIG
from slowspan.redaction import one_line

_logger = logging.getLogger(__name__)

_MESSAGE_LIMIT = 1000
_PREFIX = "OTEL_PYTHON_SLOWSPAN_"
_COMMON_EXCLUDED_URLS = "OTEL_PYTHON_EXCLUDED_URLS"

CODE: str = "code"
"""The origin of settings that a programmer has given."""

# The sources, by precedence.
_CODE, _ENVIRONMENT, _COMMON_ENVIRONMENT, _FILE = range(4)


class LoadedSettings(NamedTuple):
    """Settings, and where each of them came from."""

    settings: Settings
    origins: Mapping[str, str]
    """For every setting ``code``, ``environment OTEL_PYTHON_SLOWSPAN_…``, ``file /path`` or ``default``;
    for a secret that a file holds, ``file /path (…)`` with what named the file."""


class _Given(NamedTuple):
    """A value that one source gives for one name, which may be unknown or wrong."""

    name: str
    value: object
    origin: str
    rank: int
    strict: bool = False
    """Whether an error in it is the programmer's, who is there to see it raised."""


def load_settings(**code: Any) -> LoadedSettings:
    """Put the settings together from all sources.

    Precedence, highest first: ``code``, the environment, the file that ``OTEL_PYTHON_SLOWSPAN_CONFIG`` names,
    the defaults. A value of None in ``code`` counts as not given. Whatever is wrong or unknown in the
    environment or in the file is logged as one warning and left out, so that the next source holds. Where settings
    contradict each other, those of the lowest precedence are left out.

    Args:
        **code: Settings by name; a secret also by the path of its file, such as ``mattermost_token_file``.

    Returns:
        The settings with their origins.

    Raises:
        ConfigError: A setting in ``code`` is wrong or unknown.
    """
    return _load(_Given(name, value, CODE, _CODE, strict=True) for name, value in code.items())


def load_declared_settings(declared: Mapping[str, object], origin: str) -> LoadedSettings:
    """Put the settings together as ``load_settings`` does, but never raise for a wrong or unknown one.

    For settings that reach code although no programmer wrote them there: OpenTelemetry's declarative file.

    Args:
        declared: Settings by name, which take precedence over the environment.
        origin: Where they come from, for warnings and for ``LoadedSettings.origins``.

    Returns:
        The settings with their origins.
    """
    return _load(_Given(name, value, origin, _CODE) for name, value in declared.items())


def _load(first: Iterator[_Given]) -> LoadedSettings:
    given_at_all = [given for given in (*first, *_from_environment(), *_from_file()) if _is_known(given)]
    usable = _given_once([read for given in given_at_all if (read := _read(given)) is not None])
    wanted = {_setting_of(given.name) for given in given_at_all}
    while True:
        chosen: dict[str, _Given] = {}
        for given in usable:
            chosen.setdefault(given.name, given)
        try:
            settings = Settings(**{name: given.value for name, given in chosen.items()})  # type: ignore[arg-type]
        except ConfigError as error:
            giving_way = _giving_way(error, chosen, wanted)
            if not giving_way:
                raise
            _ignore(giving_way, error)
            usable = [given for given in usable if given not in giving_way]
        else:
            origins = {name: chosen[name].origin if name in chosen else "default" for name in SETTING_NAMES}
            return LoadedSettings(settings=settings, origins=origins)


def _giving_way(error: ConfigError, chosen: Mapping[str, _Given], wanted: Collection[str]) -> list[_Given]:
    """Choose which of the settings that contradict each other make way for the next source; none: it is raised."""
    names = (error.setting, *error.related)
    parties = [chosen[name] for name in names if name in chosen]
    doubtful = [given for given in parties if not given.strict]
    if doubtful:
        lowest = max(given.rank for given in doubtful)
        return [given for given in doubtful if given.rank == lowest]
    # A wrong environment must not stop the application, even where it leaves what code gives incomplete.
    return parties if any(name in wanted and name not in chosen for name in names) else []


def _is_known(given: _Given) -> bool:
    if given.name in SETTING_NAMES or given.name in FILE_NAMES:
        return given.value is not None
    # The value is hidden because the name may be a secret's, misspelt.
    _refuse(given, ConfigError(given.name, HIDDEN, _nearest(given.name), problem="is unknown"))
    return False


def _read(given: _Given) -> _Given | None:
    """Check a value by itself, and read the file that a secret is in; None when it is wrong."""
    try:
        if given.name in FILE_NAMES:
            return _from_secret_file(given)
        read_setting(given.name, given.value)
    except ConfigError as error:
        _refuse(given, error)
        return None
    return given


def _from_secret_file(given: _Given) -> _Given:
    name, text = _setting_of(given.name), str(given.value)
    # What is no path may be the secret itself, given to the wrong setting.
    shown = text if ("/" in text or os.sep in text) and "://" not in text else HIDDEN
    try:
        path = config_values.path("a file")(given.value)
        value = read_secret_file(path)
        read_setting(name, value)
    except config_values.NotAllowed as refusal:
        allowed = f"the path of a file that holds {name}"
        raise ConfigError(given.name, shown, allowed, problem=f"is of no use: {refusal}") from None
    except ConfigError as error:
        raise ConfigError(given.name, shown, error.allowed, problem=f"is a file with a wrong {name}") from None
    return given._replace(name=name, value=value, origin=f"file {path} ({given.origin})")


def _given_once(usable: Sequence[_Given]) -> list[_Given]:
    """Leave out the secrets that one source gives both as they are and by a file: nobody can tell which is meant."""
    groups: dict[tuple[int, str], list[_Given]] = {}
    for given in usable:
        groups.setdefault((given.rank, given.name), []).append(given)
    once: list[_Given] = []
    for (_, name), group in groups.items():
        if len(group) == 1 or name not in FILE_SECRETS:
            once.extend(group)
            continue
        file = name + FILE_SUFFIX
        allowed = f"either {name} or {file}"
        error = ConfigError(name, group[0].value, allowed, problem="is given twice", related=(file,))
        if group[0].strict:
            raise error
        _ignore(group, error)
    return once


def _setting_of(name: str) -> str:
    return name.removesuffix(FILE_SUFFIX) if name in FILE_NAMES else name


def _refuse(given: _Given, error: ConfigError) -> None:
    if given.strict:
        raise error
    _ignore([given], error)


def _ignore(ignored: Sequence[_Given], error: ConfigError) -> None:
    if len(ignored) == 1:
        what = f"{ignored[0].origin} is"
    else:
        what = f"{', '.join(f'{given.name} ({given.origin})' for given in ignored)} are"
    _logger.warning("%s", one_line(f"{what} ignored: {error}", _MESSAGE_LIMIT))


def _nearest(name: str) -> str:
    # Imported here because it is slow to import, and only misspelt names need it.
    from difflib import get_close_matches

    matches = get_close_matches(name.lower(), (*SETTING_NAMES, *FILE_NAMES), n=1)
    return f"{matches[0]}, the nearest name" if matches else f"one of {', '.join(SETTING_NAMES)}"


def _from_environment() -> Iterator[_Given]:
    for variable, text in sorted(os.environ.items()):
        # An empty variable counts as unset: the OpenTelemetry specification.
        if variable.startswith(_PREFIX) and variable != OTEL_PYTHON_SLOWSPAN_CONFIG and text.strip():
            yield _Given(variable.removeprefix(_PREFIX).lower(), text, f"environment {variable}", _ENVIRONMENT)
    common = os.environ.get(_COMMON_EXCLUDED_URLS, "")
    if common.strip():
        yield _Given("excluded_urls", common, f"environment {_COMMON_EXCLUDED_URLS}", _COMMON_ENVIRONMENT)


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
        yield _Given(str(setting), value, f"file {path}", _FILE)


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
    if not {"tool", "project", "build-system"}.isdisjoint(document):
        # Else every table of a pyproject.toml would be told as an unknown setting.
        raise ValueError("it has no table tool.slowspan")
    return document
