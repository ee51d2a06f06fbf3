"""Query texts without their values: what people wrote into a database is not for a report."""

from __future__ import annotations

import re

from slowspan.redaction import one_line

MAX_TEXT = 500
"""Characters of a query's text in a report."""

_MAX_READ = 4000
"""Characters of a query's text that are looked at."""

_VALUE = "?"

_MYSQL_LIKE = frozenset({"mysql", "mariadb", "tidb", "clickhouse", "hive", "spanner", "bigquery"})
"""Systems in whose SQL double quotes are around values, and a backslash escapes; elsewhere they are around names."""

_KEY_VALUE = frozenset({"redis", "memcached", "valkey"})

_DOCUMENTS = frozenset(
    {
        *("mongodb", "elasticsearch", "opensearch", "couchdb", "couchbase", "cosmosdb", "dynamodb", "neo4j"),
        *("aws.dynamodb", "azure.cosmosdb", "firestore", "gcp.firestore", "solr"),
    }
)
"""Systems whose queries are JSON or similar: a text before a colon is a name, all others are values."""

# An end that is missing was cut off: what is there of the value goes as well.
_SINGLE_QUOTED = r"[nNbBxXrR]?'(?:[^']|'')*(?:'|$)|[eE]'(?:[^'\\]|''|\\.)*(?:'|\\?$)"
_SINGLE_QUOTED_MYSQL = r"[nNbBxXrR]?'(?:[^'\\]|''|\\.)*(?:'|\\?$)"
_DOLLAR_QUOTED = r"\$(?P<tag>[A-Za-z_]\w*|)\$.*?(?:\$(?P=tag)\$|$)"
_COMMENT = r"/\*.*?(?:\*/|$)|--[^\n]*|(?<!\S)\#(?![>-])[^\n]*"
_DOUBLE_QUOTED = r"\"(?:[^\"\\]|\"\"|\\.)*(?:\"|\\?$)"
_BACK_QUOTED = r"`[^`]*(?:`|$)|\[[A-Za-z_][\w $]*\]"
# Not a part of a name (table1), and no placeholder's number ($1, :1, @p1).
_NUMBER = r"(?<![\w$:@%?.])[+-]?(?:0[xX][0-9a-fA-F]+|(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?!\w)"


def _tokens(single_quoted: str) -> re.Pattern[str]:
    return re.compile(
        f"(?P<value>{single_quoted}|{_DOLLAR_QUOTED})|(?P<comment>{_COMMENT})"
        f"|(?P<double>{_DOUBLE_QUOTED})|(?P<name>{_BACK_QUOTED})|(?P<number>{_NUMBER})",
        re.DOTALL,
    )


_TOKENS, _TOKENS_MYSQL = _tokens(_SINGLE_QUOTED), _tokens(_SINGLE_QUOTED_MYSQL)
_NAME = re.compile(r'"[A-Za-z_][\w $]{0,62}"')
_COMPARED = re.compile(r"(?:[=<>]|\blike)\s*$", re.IGNORECASE)
_LISTED = re.compile(r"(\?|%s)(?:\s*,\s*\1)+")
_ROWS = re.compile(r"(\((?:\?|%s)(?:, …)?\))(?:\s*,\s*\1)+")


def masked_query(text: str, system: str = "") -> str:
    """Return the text of a query with its values replaced by ``?``, on one line and bounded.

    Comments go too: some hold the trace's id, by which no two queries would be alike. Lists of values become one,
    so that queries which differ in the number of values are alike. Takes time in proportion to the length. Never
    raises.

    Args:
        text: The query, complete or cut.
        system: The database system as OpenTelemetry names it.

    Returns:
        For example ``SELECT name FROM users WHERE id IN (?, …)``.
    """
    text = text[:_MAX_READ]
    system = system.lower()
    if system in _KEY_VALUE:
        masked = "; ".join(filter(None, map(_masked_command, text.splitlines())))
    else:
        tokens = _TOKENS_MYSQL if system in _MYSQL_LIKE else _TOKENS
        masked = tokens.sub(lambda token: _masked_token(token, system), text)
        masked = _ROWS.sub(r"\1, …", _LISTED.sub(r"\1, …", " ".join(masked.split())))
    return one_line(masked, MAX_TEXT)


def _masked_token(token: re.Match[str], system: str) -> str:
    if token.lastgroup == "comment":
        return " "
    if token.lastgroup == "name":
        return token[0]
    if token.lastgroup == "double" and _is_name(token, system):
        return token[0]
    return _VALUE


def _is_name(token: re.Match[str], system: str) -> bool:
    """Tell whether double quotes are around a name rather than a value."""
    text, end = token.string, token.end()
    if system in _DOCUMENTS:
        return text[end : end + 10].lstrip().startswith(":")
    if system in _MYSQL_LIKE or not _NAME.fullmatch(token[0]):
        return False
    # SQLite and others take what is no name for a value. A name that is compared with has its table before it.
    before = text[max(token.start() - 10, 0) : token.start()]
    return not _COMPARED.search(before) or text[end : end + 1] == "."


def _masked_command(line: str) -> str:
    """Mask a command of a key-value store: ``GET user:17`` becomes ``GET user:?``."""
    words = line.split(None, 2)
    if len(words) < 2:
        return line.strip() if line.strip().isalpha() else _VALUE * bool(line.strip())
    prefix, colon, _ = words[1].partition(":")
    key = f"{prefix}:{_VALUE}" if colon and prefix.isalpha() else _VALUE
    rest = f" {_VALUE}" if len(words) > 2 else ""
    return f"{words[0] if words[0].isalpha() else _VALUE} {key}{rest}"
