"""Text of strangers made safe: parameters redacted, lines unbroken, work bounded."""

from __future__ import annotations

import time
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slowspan.redaction import (
    DEFAULT_REDACTED_PARAMETERS,
    LEFT_OUT,
    MAX_PARAMETER_NAME,
    MAX_PARAMETER_VALUE,
    MAX_PARAMETERS,
    MAX_QUERY,
    REDACTED,
    one_line,
    redact_parameters,
    secret_names,
)

NAMES = secret_names(DEFAULT_REDACTED_PARAMETERS)


def words(text: str) -> list[str]:
    return text.split()


SECRET = words(
    """
    AWSAccessKeyId Signature sig X-Goog-Signature
    password passwd PASSWORD pwd user_password user[password] new-passphrase db.pass pw pass%77ord
    secret client_secret token access_token csrfmiddlewaretoken X-Amz-Security-Token jwt bearer cookie xsrf
    api_key apikey apiKey api-key x-api-key key userKey private_key
    auth authToken oauth_verifier authorization session sessionid PHPSESSID JSESSIONID sid connect.sid
    signature X-Amz-Signature credential X-Amz-Credential credentials code code_verifier otp pin SAMLResponse
    totp totpCode mfa userMfa 2fa hmac psw cvv userpass user-pass dbpass DBPASS dbpass2
    verificationcode verificationCode securitycode SECURITYCODE recoverycodes onetimecode
    signingkey sharedkey subscriptionkey Ocp-Apim-Subscription-Key userkey encryptionkey webhookKey accessKeyId
"""
)
HARMLESS = words(
    """
    page q sort order_id author authors authority keyword monkey design signal inside residence zipcode encode
    barcode passenger compass bypass pinned spin customer from to lang utm_source opinion assign hockey
    sortkey userkeyword accesskeyboard userpassenger underpass countrycode postcode promocode errorcode resetcodec
    state ticket hash digest
"""
)

secrets = st.text(alphabet=st.characters(codec="utf-8"), min_size=1).map(lambda text: f"Zx9{text}9xZ")


@pytest.mark.parametrize("name", SECRET)
def test_secret_names(name: str) -> None:
    """The built-in patterns know the usual names of secrets, in every usual spelling."""
    [(_, value)] = redact_parameters(f"{name}=hunter2", NAMES)
    assert value == REDACTED


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_names(name: str) -> None:
    """The built-in patterns leave names alone that only look alike."""
    assert redact_parameters(f"{name}=hunter2", NAMES) == ((name, "hunter2"),)


@pytest.mark.parametrize(
    "query",
    [
        "next=/login?token=hunter2",
        "next=%2Flogin%3Ftoken%3Dhunter2",
        "next=%252Flogin%253Fa%253D1%2526token%253Dhunter2",
        "next=%25252Flogin%25253Ftoken%25253Dhunter2",
        "a=1;password=hunter2",
        "a=1&amp;password=hunter2",
        "data=%7B%22password%22%3A%20%22hunter2%22%7D",
        "%7B%22password%22%3A%20%22hunter2%22%7D",
        "token%3Dhunter2",
        "url=https://user:hunter2@host/",
        "password=a;hunter2",
        "password=a=hunter2",
        "token=%68unter2hunter2",
        "?token=hunter2",
        "x=Bearer hunter2",
        "x=bearer+hunter2",
        "x=%22Bearer%2520hunter2%22",
        "x=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.hunter2",
        "x=eyJhbGciOiJub25lIn0.hunter2.",
        "x=eyJhbGciOiJIUzI1NiJ9%2EeyJzdWIiOiIxMjM0In0%2Ehunter2",
        'x=["eyJhbGciOiJIUzI1NiJ9.hunter2.a"]',
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.hunter2",
    ],
)
def test_hidden_secrets(query: str) -> None:
    """A secret inside another parameter's value, or behind an encoding, is not shown either."""
    assert "hunter2" not in repr(redact_parameters(query, NAMES))


@given(name=st.sampled_from(SECRET), secret=secrets, others=st.dictionaries(st.sampled_from(HARMLESS), st.text()))
def test_no_secret_survives(name: str, secret: str, others: dict[str, str]) -> None:
    """No value of a secret name is shown, however it is encoded and whatever stands beside it."""
    for encoded in (quote(secret, safe=""), quote_plus(secret), quote(quote(secret, safe=""), safe="")):
        query = "&".join([urlencode(others), f"{name}={encoded}", urlencode(others)])
        shown = repr(redact_parameters(query, NAMES))
        assert secret not in shown
        assert encoded not in shown
        assert "Zx9" not in shown


@given(st.text() | st.text(alphabet="&=;%?#+ab\n\u202e\ud800"))
def test_any_query(query: str) -> None:
    """Any text gives bounded pairs that fit on one line and can be encoded; it never raises."""
    pairs = redact_parameters(query, NAMES)
    for name, value in pairs:
        assert name.isprintable()
        assert value.isprintable()
        assert len(name) <= MAX_PARAMETER_NAME
        assert len(value) <= MAX_PARAMETER_VALUE
        (name + value).encode()


def test_harmless_queries_are_shown_as_they_are() -> None:
    """Names and values are decoded, in their order, repeated ones kept."""
    query = "q=caf%C3%A9+noir&tag=a&tag=b&empty=&flag&x=1%2B1&y=the+bearer+of+news&z=eyJ.a.b"
    assert redact_parameters(query, NAMES) == (
        ("q", "café noir"),
        ("tag", "a"),
        ("tag", "b"),
        ("empty", ""),
        ("flag", ""),
        ("x", "1+1"),
        ("y", "the bearer of news"),
        ("z", "eyJ.a.b"),
    )


def test_long_queries_are_cut_and_say_so() -> None:
    """A query with too many parameters, or too long, ends in a word that more was left out."""
    many = redact_parameters("&".join(f"a{i}=1" for i in range(500)), NAMES)
    assert len(many) == MAX_PARAMETERS + 1
    assert many[-1] == LEFT_OUT
    assert redact_parameters("a=" + "x" * 10_000, NAMES)[-1] == LEFT_OUT
    assert LEFT_OUT not in redact_parameters("a=1", NAMES)


@given(st.integers(4000, 4088))
def test_a_parameter_that_was_cut_is_not_shown(length: int) -> None:
    """Of a query that is too long, a parameter is shown wholly or not at all: no part of it looks like a whole."""
    query = f"filter={'x' * length}&page=12345&size=9&secret=hunter2"
    is_long = len(query) > MAX_QUERY
    whole = query.count("&", 0, MAX_QUERY + 1) if is_long else 4
    filtered, *others = redact_parameters(query, NAMES)
    assert filtered[0] == "filter"
    expected = [("page", "12345"), ("size", "9"), ("secret", REDACTED)][: whole - 1]
    assert others == [*expected, LEFT_OUT][: len(expected) + is_long]


@pytest.mark.parametrize(
    "piece", ["a", "a=", "%", "%25", "&", "a&", "=", ";", "//", "a:", '"', "//a", "%2525", "eyJ", "eyJ.", "bearer+"]
)
def test_work_is_bounded(piece: str) -> None:
    """No query takes long, whatever it repeats: a megabyte costs what 4 KB cost."""
    started = time.thread_time()
    redact_parameters(piece * (1_000_000 // len(piece)), NAMES)
    # A query of 4 KB takes a few milliseconds; a quadratic one would take minutes.
    assert time.thread_time() - started < 2


def test_own_names() -> None:
    """Other patterns can be set, and none at all."""
    assert redact_parameters("iban=1&token=2", secret_names(("IBAN",))) == (
        ("iban", REDACTED),
        ("token", "2"),
    )
    assert redact_parameters("token=2", secret_names(())) == (("token", "2"),)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain text ü 日本", "plain text ü 日本"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("abc\u202eexe\u2066", "abc\\u202eexe\\u2066"),
        ("\ud800", "\\ud800"),
        ("\0", "\\x00"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    """Whatever could break, forge or reorder a line is escaped."""
    assert one_line(text, 100) == line


@given(text=st.text(), limit=st.integers(min_value=1, max_value=20))
def test_one_line_is_bounded(text: str, limit: int) -> None:
    """The result is printable, encodable, within its limit, and marked when it was cut."""
    line = one_line(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
    line.encode()
    assert line == text or not text.isprintable() or line == text[: limit - 1] + "…"
