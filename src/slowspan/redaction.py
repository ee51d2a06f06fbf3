"""Makes what strangers wrote (URLs, parameters) safe to show: secrets hidden, lengths bounded, one line."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_plus

REDACTED = "[redacted]"

DEFAULT_REDACTED_PARAMETERS: tuple[str, ...] = (
    "passw",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "token",
    "credential",
    "signature",
    "session",
    "sessid",
    # auth, oauth_verifier, authorization; but not author, authority.
    "auth(?!or(?!i[sz]))",
    "(?:api|access|private|shared|signing|subscription|user|encryption|license|webhook)[^a-z]?key(?!board|word)",
    # userpass, dbpass; but not compass, bypass.
    "(?:admin|db|login|root|user)pass(?![a-z])",
    "(?:activation|confirmation|invite|onetime|recovery|reset|security|sms|verification)codes?(?![a-z])",
    "cookie",
    "bearer",
    "jwt",
    "csrf",
    "xsrf",
    "saml",
    # Short words only where they stand alone: sort-key and code, but not monkey, zipcode, inside, design.
    "(?:^|[^a-z])(?:2fa|code|cred|cvc|cvv|hmac|key|mfa|otp|pass|pin|psw|pw|sid|sig|totp)(?:[^a-z]|$)",
    "(?-i:[a-z](?:Code|Cred|Key|Mfa|Otp|Pass|Pin|Pw|Sid|Sig|Totp)(?![a-z]))",
)
"""Regular expressions for the names of parameters whose values are not shown. Case does not matter."""

MAX_QUERY = 4096
"""Characters of a query string that are looked at: the work for one request stays bounded."""

MAX_PARAMETERS = 50
MAX_PARAMETER_NAME = 64
MAX_PARAMETER_VALUE = 200

LEFT_OUT = ("…", "[more was left out]")
"""Stands at the end of the parameters of a query that was too long to be shown wholly."""

_DECODINGS = 3  # a URL in a parameter of a URL in a parameter is as deep as real redirects go

_MAX_SEARCHED_NAME = 256

# What stands before "=" or ":" inside a value is a name: of another query string, of JSON.
_ASSIGNMENT = re.compile("[=:]")
_NAME_START = re.compile(r"""[\s&;?#,{}"'/]""")
_NESTED_LOGIN = re.compile(r"//[^/?#\s]{0,256}@")

# "Bearer" with one word behind it and nothing else, as in a header; and a JSON Web Token, which begins with '{"'.
_BEARER = re.compile(r"\W*bearer\s+\S+\s*", re.IGNORECASE)
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]*\.[\w-]*", re.ASCII)


def one_line(text: str, limit: int) -> str:
    r"""Make any text safe for one line of a log or a page.

    Control characters, line and paragraph separators, bidirectional controls, invisible characters and lone
    surrogates become escapes such as ``\n`` or ``\u202e``, so that the text cannot forge another line and can
    be encoded.

    Args:
        text: Any text.
        limit: The most characters of the result, at least 1.

    Returns:
        The text on one line; ``…`` at its end where it was cut.
    """
    line = text[:limit]
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    if len(text) > limit or len(line) > limit:
        return line[: limit - 1] + "…"
    return line


@lru_cache(maxsize=8)
def secret_names(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Compile the patterns of secret parameter names into one.

    Args:
        patterns: ``Settings.redacted_parameters``.

    Returns:
        A pattern to ``search`` in a name; it ignores case, and matches nothing when there are no patterns.
    """
    return re.compile("|".join(patterns) or "(?!)", re.IGNORECASE)


def redact_parameters(
    query: str, names: re.Pattern[str], *, limit: int = MAX_PARAMETERS
) -> tuple[tuple[str, str], ...]:
    """Read the parameters of a query string, with the values of secret names replaced.

    A value is also replaced when it holds a secret name itself (a URL with a query of its own, JSON, ``;`` as
    a separator), a login (``//user:password@host``) or a JSON Web Token, or is ``Bearer`` with a token. Never raises,
    whatever the text; looks at the parameters that end within the first ``MAX_QUERY`` characters only.

    Args:
        query: The query string, without the question mark, percent-encoded or not.
        names: Searched in every parameter's name (``secret_names``).
        limit: The most parameters of the result.

    Returns:
        Pairs of name and value, decoded, bounded and safe for one line, in the query's order. ``LEFT_OUT`` is
        appended when the query was longer than what is shown.
    """
    is_long = len(query) > MAX_QUERY
    # A parameter of which a part is missing would look whole: what stands before its "&" is read.
    read = query[: query.rfind("&", 0, MAX_QUERY + 1) + 1] if is_long else query
    pieces = read.split("&", limit)
    shown = tuple(_redact(piece, names) for piece in pieces[:limit] if piece)
    return (*shown, LEFT_OUT) if is_long or len(pieces) > limit else shown


def _redact(piece: str, names: re.Pattern[str]) -> tuple[str, str]:
    name, _, value = piece.partition("=")
    # A whole query can stand in a name: "?token%3Dabc", "?{...JSON...}".
    shown_name = REDACTED if _holds_secret(name, names) else one_line(unquote_plus(name), MAX_PARAMETER_NAME)
    if len(name) > _MAX_SEARCHED_NAME or any(names.search(text) for text in _decodings(name)):
        return shown_name, REDACTED
    if _holds_secret(value, names):
        return shown_name, REDACTED
    return shown_name, one_line(unquote_plus(value), MAX_PARAMETER_VALUE)


def _holds_secret(text: str, names: re.Pattern[str]) -> bool:
    return any(
        _NESTED_LOGIN.search(decoded)
        or _BEARER.fullmatch(decoded)
        or _JWT.search(decoded)
        or any(names.search(name) for name in _nested_names(decoded))
        for decoded in _decodings(text)
    )


def _nested_names(text: str) -> list[str]:
    # Split, not searched: a pattern for the whole name would take quadratic time on a long word.
    pieces = _ASSIGNMENT.split(text)[:-1]
    return [_NAME_START.split(piece.rstrip("\"' \t"))[-1][-_MAX_SEARCHED_NAME:] for piece in pieces]


def _decodings(text: str) -> list[str]:
    decodings = [text]
    while len(decodings) <= _DECODINGS:
        text = unquote_plus(decodings[-1])
        if text == decodings[-1]:
            break
        decodings.append(text)
    return decodings
