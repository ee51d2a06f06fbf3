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
"""Systems in whose SQL double quotes are around values, and a backslash escapes."""

_STANDARD = frozenset(
    {
        *("postgresql", "cockroachdb", "redshift", "aws.redshift", "greenplum", "timescaledb"),
        *("oracle", "oracle.db", "mssql", "microsoft.sql_server", "db2", "ibm.db2", "cassandra"),
        *("snowflake", "trino", "presto", "vertica", "teradata", "hanadb", "sap.hana", "duckdb"),
        *("h2", "h2database", "hsqldb", "derby", "firebird", "firebirdsql"),
    }
)
"""Systems in which double quotes are around names only, and around passwords.

SQLite takes for a value what is no name there, and others are not known: only what must be a name is shown of these.
"""

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
_DOUBLE_QUOTED = r"\"(?:[^\"]|\"\")*(?:\"|$)"
_DOUBLE_QUOTED_ESCAPING = r"\"(?:[^\"\\]|\"\"|\\.)*(?:\"|\\?$)"
_BACK_QUOTED = r"`[^`]*(?:`|$)|\[[A-Za-z_][\w $]*\]"
# Not a part of a name (table1), and no placeholder's number ($1, :1, @p1).
_NUMBER = r"(?<![\w$:@%?.])[+-]?(?:0[xX][0-9a-fA-F]+|(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?!\w)"


def _tokens(single_quoted: str, double_quoted: str) -> re.Pattern[str]:
    return re.compile(
        f"(?P<value>{single_quoted}|{_DOLLAR_QUOTED})|(?P<comment>{_COMMENT})"
        f"|(?P<double>{double_quoted})|(?P<name>{_BACK_QUOTED})|(?P<number>{_NUMBER})",
        re.DOTALL,
    )


_TOKENS = _tokens(_SINGLE_QUOTED, _DOUBLE_QUOTED)
_TOKENS_UNKNOWN = _tokens(_SINGLE_QUOTED, _DOUBLE_QUOTED_ESCAPING)
_TOKENS_MYSQL = _tokens(_SINGLE_QUOTED_MYSQL, _DOUBLE_QUOTED_ESCAPING)

_QUOTED_NAME = r'"[A-Za-z_][\w $]{0,62}"'
_NAME = re.compile(_QUOTED_NAME)
_ANY_NAME = rf"(?:{_QUOTED_NAME}|\w+)"

# The columns that an INSERT names are kept with it: nothing else in a query is so sure to be names.
_JUDGED = re.compile(
    rf"(?P<name>{_BACK_QUOTED}|\binto {_ANY_NAME}(?:\.{_ANY_NAME})? ?\((?: ?{_ANY_NAME} ?[,)])*)"
    rf"|(?P<double>{_QUOTED_NAME})",
    re.IGNORECASE,
)


def _behind(signs: str, *words: str) -> re.Pattern[str]:
    """Compile a pattern that matches, with nothing, where one of the signs or words ends."""
    ends = [f"[{signs}]", *(rf"\b{word}" for word in words)]
    return re.compile("|".join(f"(?<={end})" for end in ends), re.IGNORECASE)


_VALUE_BEHIND = _behind("=<>", "like", "distinct from", "identified by", "by values", "password", "replace")
_NAME_BEHIND = _behind(
    ".",
    *("from", "join", "into", "update", "table", "view", "index", "column", "references", "exists", "as", "set"),
    *("with", "recursive", "returning", "order by", "group by", "partition by"),
)
# Nobody compares a value with a placeholder, unless it is the end of an expression.
_COMPARED_BEHIND = _behind("(,", "where", "and", "or", "not", "on", "when", "having")
_COMPARED_BEFORE = re.compile(r" ?(?:=|<>|!=|[<>]=?) ?(?:\?|%|[:$@]\w|excluded\.)", re.IGNORECASE)

# Oracle takes a password without quotes.
_PASSWORD = re.compile(r"\b(identified by(?: values)?) ?[^\s;,]+(?:( replace) ?[^\s;,]+)?", re.IGNORECASE)

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
        masked = " ".join(_tokens_of(system).sub(lambda token: _masked_token(token, system), text).split())
        if '"' in masked and system not in _DOCUMENTS:
            # Only now, when no comment and but one space stands between two words.
            masked = _JUDGED.sub(lambda token: token[0] if _is_name(token, system) else _VALUE, masked)
        masked = _PASSWORD.sub(lambda match: "".join(f"{word} {_VALUE}" for word in match.groups() if word), masked)
        masked = _ROWS.sub(r"\1, …", _LISTED.sub(r"\1, …", masked))
    return one_line(masked, MAX_TEXT)


def _tokens_of(system: str) -> re.Pattern[str]:
    if system in _MYSQL_LIKE:
        return _TOKENS_MYSQL
    return _TOKENS if system in _STANDARD or system == "sqlite" else _TOKENS_UNKNOWN


def _masked_token(token: re.Match[str], system: str) -> str:
    if token.lastgroup == "comment":
        return " "
    if token.lastgroup == "name":
        return token[0]
    if token.lastgroup == "double" and _may_be_name(token, system):
        return token[0]
    return _VALUE


def _may_be_name(token: re.Match[str], system: str) -> bool:
    """Tell whether double quotes can be around a name rather than a value, by what they hold."""
    if system in _DOCUMENTS:
        return token.string[token.end() : token.end() + 10].lstrip().startswith(":")
    return system not in _MYSQL_LIKE and _NAME.fullmatch(token[0]) is not None


def _is_name(token: re.Match[str], system: str) -> bool:
    """Tell whether double quotes are around a name, by what stands beside them; in doubt they are not."""
    if token.lastgroup == "name":
        return True
    text, start, end = token.string, token.start(), token.end()
    behind = start - 1 if text[start - 1 : start] == " " else start
    if text[end : end + 1] == ".":
        return True
    if _VALUE_BEHIND.match(text, behind):
        return False
    if system in _STANDARD or _NAME_BEHIND.match(text, behind):
        return True
    return bool(_COMPARED_BEHIND.match(text, behind) and _COMPARED_BEFORE.match(text, end))


def _masked_command(line: str) -> str:
    """Mask a command of a key-value store: ``GET user:17`` becomes ``GET user:?``."""
    words = line.split(None, 2)
    if len(words) < 2:
        return line.strip() if line.strip().isalpha() else _VALUE * bool(line.strip())
    prefix, colon, _ = words[1].partition(":")
    key = f"{prefix}:{_VALUE}" if colon and prefix.isalpha() else _VALUE
    rest = f" {_VALUE}" if len(words) > 2 else ""
    return f"{words[0] if words[0].isalpha() else _VALUE} {key}{rest}"
