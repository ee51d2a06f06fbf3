"""What leaves the process of a span's attributes: no values of queries, no secrets of URLs, nothing unbounded."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slowspan.recording.query_text import MAX_TEXT, masked_query
from slowspan.recording.span_tree import AttributeReader, shown_name, shown_url
from slowspan.redaction import DEFAULT_REDACTED_PARAMETERS, secret_names

SECRET_NAMES = secret_names(DEFAULT_REDACTED_PARAMETERS)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)

QUERIES = {
    "strings": ("SELECT a FROM t WHERE b = 'O''Brien' AND c=N'x'", "", "SELECT a FROM t WHERE b = ? AND c=?"),
    "numbers": (
        "SELECT a1 FROM t2 WHERE b=17 AND c<-1.5e3 OR d=0xFF",
        "",
        "SELECT a1 FROM t2 WHERE b=? AND c<? OR d=?",
    ),
    "placeholders": ("SELECT $1, :1, :name, %s, @p1, ?1", "", "SELECT $1, :1, :name, %s, @p1, ?1"),
    "lists": ("SELECT a FROM t WHERE b IN (1, 2,3)", "", "SELECT a FROM t WHERE b IN (?, …)"),
    "rows": ("INSERT INTO t VALUES (%s,%s), (%s, %s)", "", "INSERT INTO t VALUES (%s, …), …"),
    "comments": ("/* traceparent='00-1' */ SELECT a -- bob\nFROM t", "", "SELECT a FROM t"),
    "dollar quotes": ("SELECT $$bob$$, $x$ o'b $x$, a FROM t", "postgresql", "SELECT ?, …, a FROM t"),
    "a backslash in the standard": (r"SELECT 'C:\' || a || 'bob'", "postgresql", "SELECT ? || a || ?"),
    "an escaping string": (r"SELECT E'a\'bob' || c", "postgresql", "SELECT ? || c"),
    "a backslash in MySQL": (r"SELECT 'a\'bob' , c", "mysql", "SELECT ? , c"),
    "quoted names": ('SELECT "o"."id" FROM "o" WHERE "o"."c" = "c"."id"', "sqlite", None),
    "double quotes in SQLite": ('SELECT a FROM t WHERE b = "bob"', "sqlite", "SELECT a FROM t WHERE b = ?"),
    "a sign before a double quote": (
        r'SELECT a FROM t WHERE b = "C:\" OR c="bob"',
        "sqlite",
        "SELECT a FROM t WHERE b = ? OR c=?",
    ),
    "a password in Oracle": (
        'ALTER USER "U" IDENTIFIED  BY /* */ "bob" REPLACE "bob1"',
        "oracle",
        'ALTER USER "U" IDENTIFIED BY ? REPLACE ?',
    ),
    "a password without quotes": (
        "ALTER USER u Identified by bob#1 REPLACE bob; DROP USER v",
        "oracle",
        "ALTER USER u Identified by ? REPLACE ?; DROP USER v",
    ),
    "double quotes in MySQL": ('SELECT `a 1` FROM t WHERE b IN ("bob")', "MySQL", "SELECT `a 1` FROM t WHERE b IN (?)"),
    "cut off": ("SELECT a FROM t WHERE b = 'bo", "", "SELECT a FROM t WHERE b = ?"),
    "white space": ("SELECT a\n   FROM\tt", "", "SELECT a FROM t"),
    "operators": ("SELECT a->'bob', b #> '{bob}' FROM t", "postgresql", "SELECT a->?, b #> ? FROM t"),
    "a document": ('find {"name": "bob", "age": 17}', "mongodb", 'find {"name": ?, "age": ?}'),
    "Redis": ("SET session:bob bob bob", "redis", "SET session:? ?"),
    "a key without a prefix": ("GET bob", "redis", "GET ?"),
    "a pipeline": ("GET user:1\nPING\n17", "redis", "GET user:?; PING; ?"),
}


@pytest.mark.parametrize(("text", "system", "masked"), QUERIES.values(), ids=QUERIES.keys())
def test_values_of_queries_are_masked(text: str, system: str, masked: str | None) -> None:
    """Strings and numbers become question marks, names and placeholders stay."""
    assert masked_query(text, system) == (text if masked is None else masked)
    assert "bob" not in masked_query(text, system)


VALUES_IN_DOUBLE_QUOTES = [
    "INSERT INTO users VALUES ({0}, {1}), ({1}, {0})",
    'INSERT INTO "users" ("name", pw) VALUES ({0}, {1})',
    "INSERT INTO t SELECT {0}, {1} || name || {0}",
    "REPLACE INTO s.t (a, b) VALUES (upper({0}), {1}) ON CONFLICT (a) DO UPDATE SET b = {1}",
    "UPDATE t SET a = {0}, b={1} WHERE c <> {1} OR d == {0}",
    "SELECT {0}, a FROM t WHERE b IN ({0},{1}) AND c NOT IN ({1})",
    "SELECT a FROM t WHERE b BETWEEN {0} AND {1} OR b LIKE {0} OR b GLOB {1} OR b MATCH {0} OR {1} = b",
    "SELECT a FROM t WHERE b IS {0} OR b IS NOT DISTINCT  FROM {1} OR c COLLATE NOCASE>{1}",
    "SELECT CASE b WHEN {0} THEN {1} ELSE {0} END, a||{1} FROM t WHERE pw || {0} = ?",
    "CREATE USER a IDENTIFIED BY {0} REPLACE {1}",
    "ATTACH DATABASE {0} KEY {1}",
]


@pytest.mark.parametrize("query", VALUES_IN_DOUBLE_QUOTES)
@given(
    values=st.tuples(*2 * [NAMES | st.text(st.characters(codec="utf-8", exclude_characters='"\\'))]),
    space=st.sampled_from(["", " ", "\n  ", " /* */ "]),
)
@example(values=("alice", "hunter2"), space="")
def test_no_value_in_double_quotes_survives(query: str, values: tuple[str, str], space: str) -> None:
    """Where double quotes can be around values, whatever can be one is hidden, and nothing else."""
    quoted = [f'{space}"{value}Zx9"' for value in values]
    for system in ("sqlite", "", "another_sql"):
        masked = masked_query(query.format(*quoted), system)
        assert "Zx9" not in masked
        assert masked == masked_query(query.format(f"{space}'a'", f"{space}'b'"), system)


QUERIES_OF_LIBRARIES = [
    'SELECT "{0}"."{1}", COUNT(*) AS "{2}" FROM "{0}" WHERE "{0}"."{1}" IN (?)',
    'SELECT ? AS "{0}" FROM "{1}" INNER JOIN "{2}" ON ("{1}"."{2}" = "{2}"."{1}") LIMIT ?',
    'INSERT INTO "{0}" ("{1}", "{2}") VALUES (?, …) RETURNING "{0}"."{2}"',
    'UPDATE "{0}" SET "{1}" = ?, "{2}" = %s WHERE "{0}"."{2}" = :a',
    'DELETE FROM "{0}" WHERE ("{1}" > ? AND NOT "{2}"=$1)',
    'SELECT "{0}".id AS "{1}" FROM "{0}" GROUP BY "{0}"."{1}" HAVING "{2}" >= @b ORDER BY "{2}" DESC LIMIT ?',
    'WITH "{0}" AS (SELECT * FROM "{1}") UPDATE "{2}" SET "{0}"=("{1}"."{0}")',
]


@pytest.mark.parametrize("query", QUERIES_OF_LIBRARIES)
@given(names=st.tuples(NAMES, NAMES, NAMES))
@example(names=("order", "from", "group"))
def test_queries_of_libraries_stay_readable(query: str, names: tuple[str, str, str]) -> None:
    """Names that an object mapper quotes are shown, whatever they are, where double quotes can be around values too."""
    text = query.format(*names)
    for system in ("sqlite", "", "postgresql"):
        assert masked_query(text, system) == text


@given(st.text(), st.sampled_from(["", "sqlite", "oracle", "mysql", "redis", "mongodb"]))
def test_any_text_is_masked_to_a_bounded_line(text: str, system: str) -> None:
    """Whatever a query is, the result is one printable line."""
    masked = masked_query(text, system)
    assert len(masked) <= MAX_TEXT
    assert masked.isprintable()


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="'")), st.sampled_from(["", "sqlite"]))
def test_no_quoted_text_survives(secret: str, system: str) -> None:
    """What stands between two quotes is never shown."""
    assert masked_query(f"SELECT '{secret}' FROM t", system) == "SELECT ? FROM t"


@pytest.mark.parametrize(
    "piece", ["'", '"', "\\", "$", "$a$", "/*", "-", "a'b", "?, ", "(?),", "1.", "[a", " \n#", 'into a ("b",', '"a" ,']
)
def test_masking_takes_time_in_proportion(piece: str) -> None:
    """No text makes it slow: a thousand times as long a text is cut, and read at once."""
    start = time.perf_counter()
    masked_query(piece * 100_000)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "https://bob:pw@api.example/orders/17?page=2&token=bob",
            "https://api.example/orders/*?page=2&token=[redacted]",
        ),
        ("https://api.example/a/9f86d081884c7d659a2feaa0", "https://api.example/a/*"),
        (
            "https://hooks.example/services/T0AAAAAAAAA1/B0/x8Qh2kLm3nOp4qRs",
            "https://hooks.example/services/T0AAAAAAAAA1/B0/*",
        ),
        ("https://api.example/users/bob@example.org#x", "https://api.example/users/*"),
        ("/orders/17?secret=1", "/orders/*?secret=[redacted]"),
        ("https://api.example", "https://api.example/"),
    ],
)
def test_urls_are_redacted(url: str, shown: str) -> None:
    """Logins, numbers, keys in the path and the values of secret parameters are not shown."""
    assert shown_url(url, SECRET_NAMES) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("GET", "GET"),
        ("GET /orders/17", "GET /orders/17"),
        ("GET https://api.example/x?token=bob&a=1", "GET https://api.example/x?token=[redacted]&a=1"),
        ("GET https://bob:pw@api.example/orders/17", "GET https://api.example/orders/*"),
        ("/x?next=https://api.example/&q=a b&token=bob", "/x?next=https://api.example/&q=a b&token=[redacted]"),
        ("poll (https://bob:pw@api.example/?token=bob)", "poll (https://api.example/?token=[redacted]"),
        ("a\nb", "a\\nb"),
    ],
)
def test_urls_in_names_are_redacted(name: str, shown: str) -> None:
    """A span may be called what it asks for: then its name has no more than the URL among its attributes."""
    assert shown_name(name, SECRET_NAMES) == shown


def test_a_parameter_that_was_cut_is_not_shown() -> None:
    """A URL that is too long says so in the place of the parameter that was cut."""
    url = f"https://api.example/x?token={'t' * 4000}&page=12345&{'x' * 100}"
    assert shown_url(url, SECRET_NAMES) == ("https://api.example/x?token=[redacted]&page=12345&…=[more was left out]")
    assert shown_url(url[:3990] + "&size=9", SECRET_NAMES) == "https://api.example/x?token=[redacted]&size=9"


def test_attributes_are_chosen_and_renamed() -> None:
    """Only what is on the list is shown, old names as the new ones; an odd value is left out."""
    attributes = {
        "db.system": "sqlite",
        "db.statement": "SELECT 17",
        "db.statement.parameters": "(17,)",
        "db.user": "bob",
        "http.status_code": 404,
        "net.peer.name": "db.example",
        "rpc.method": ("a", "b"),
        "http.request.header.authorization": "Bearer bob",
    }
    assert AttributeReader(SECRET_NAMES).read(attributes) == (
        ("db.system.name", "sqlite"),
        ("db.query.text", "SELECT ?"),
        ("http.response.status_code", "404"),
        ("server.address", "db.example"),
    )


@given(
    st.dictionaries(st.sampled_from(["db.statement", "url.full", "http.method", "rpc.method"]), st.text(min_size=300))
)
def test_attributes_are_bounded(attributes: dict[str, object]) -> None:
    """However long the texts are, those in the report are one short line each."""
    for _, value in AttributeReader(SECRET_NAMES).read(attributes):
        assert len(value) <= MAX_TEXT
        assert value.isprintable()
