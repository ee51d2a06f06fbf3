"""The HTTP side of ``mattermostdriver``, for its ``Driver(options, client_cls=...)``.

The driver's own client waits for ever, sends a body with every GET, logs what servers say, and forgets the answer that
an error came with. This one has a deadline for every request, and tells errors apart.

Imports requests and mattermostdriver: only for the notifier, when it is used.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests

from slowspan._version import __version__
from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.http import CONNECT_TIMEOUT, is_tls_error, is_unknown_host, reason, retry_after, shown_address
from slowspan.notifiers.mattermost_errors import ApiError
from slowspan.redaction import REDACTED, one_line

if TYPE_CHECKING:

    class Client:
        """What is used here of the driver's own client, which has no types."""

        _options: dict[str, Any]
        _url: str
        _verify: bool | str
        token: str
        url: str

        def __init__(self, options: dict[str, Any]) -> None: ...

else:
    from mattermostdriver.client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ANSWER = 4_000_000
"""The most bytes of an answer that are read: Mattermost's are a few kilobytes, a wrong server's may have no end."""

_SAID_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What the driver needs of a response."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes
    cookies: object = None

    def json(self) -> Any:
        """Return the JSON value of the body.

        Raises:
            ValueError: It is none.
        """
        return json.loads(self.content)


class MattermostClient(Client):
    """A client for ``Driver``, with a session, a deadline, and errors that say what to do.

    Besides the driver's options it reads ``request_timeout`` (seconds for all requests between ``begin`` and ``end``)
    and ``proxy`` (a URL, or None for what the environment says).

    Not for several threads at the same time.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._proxies = {"http": options["proxy"], "https": options["proxy"]} if options["proxy"] else None
        self._secrets = [options[name] for name in ("token", "password", "proxy") if options[name]]
        self._deadline = 0.0
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"slowspan/{__version__}"
        # Mattermost prefers a session cookie to the header, and then wants a CSRF token with every POST.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # As a hook and not as a header, because requests lets a .netrc overwrite the header.
        self._session.auth = self._authorize

    def begin(self) -> None:
        """Start the time limit for the requests to come."""
        self._deadline = time.monotonic() + self._options["request_timeout"]

    def end(self) -> None:
        """Close the connections: alerts are rare, and servers drop a connection that idles."""
        self._session.close()

    def make_request(
        self,
        method: str,
        endpoint: str,
        options: object = None,
        params: object = None,
        data: object = None,
        files: object = None,
        basepath: str | None = None,  # noqa: ARG002 -- the driver's signature
    ) -> Answer:
        """Send one request.

        Raises:
            ApiError: The server refused it.
            DeliveryError: There was no answer, or none of Mattermost's.
        """
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise self._too_slow()
        try:
            # Redirects are not followed: they would turn a POST into a GET.
            with self._session.request(
                method,
                self.url + endpoint,
                params=params,  # type: ignore[arg-type]
                json=None if method == "get" or files else options or {},
                data=data,  # type: ignore[arg-type]
                files=files,  # type: ignore[arg-type]
                timeout=(min(CONNECT_TIMEOUT, remaining), remaining),
                verify=self._verify,
                proxies=self._proxies,
                allow_redirects=False,
                stream=True,
            ) as response:
                answer = Answer(response.status_code, response.headers, self._read(response))
        except (requests.RequestException, OSError) as error:
            # Not chained: messages of requests can hold headers and the proxy's password.
            raise self._unreachable(error) from None
        self._check(answer)
        return answer

    def get(self, endpoint: str, options: object = None, params: object = None) -> Any:
        """Send a GET request and return the JSON value of the answer; raises like ``make_request``."""
        return self._value(self.make_request("get", endpoint, options=options, params=params))

    def post(
        self, endpoint: str, options: object = None, params: object = None, data: object = None, files: object = None
    ) -> Any:
        """Send a POST request and return the JSON value of the answer; raises like ``make_request``."""
        return self._value(self.make_request("post", endpoint, options=options, params=params, data=data, files=files))

    def without_secrets(self, text: str) -> str:
        """Return a text of the server on one line, bounded, with our own secrets replaced."""
        for secret in (*self._secrets, self.token):
            text = text.replace(secret, REDACTED) if secret else text
        return one_line(" ".join(text.split()), _SAID_LIMIT)

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request

    def _read(self, response: requests.Response) -> bytes:
        pieces: list[bytes] = []
        size = 0
        for piece in response.iter_content(65536):
            pieces.append(piece)
            size += len(piece)
            if time.monotonic() > self._deadline:
                raise requests.ReadTimeout
            if size > MAX_ANSWER:
                raise DeliveryError(f"{self._url} answered with more than {MAX_ANSWER} bytes: check mattermost_url")
        return b"".join(pieces)

    def _check(self, answer: Answer) -> None:
        status = answer.status_code
        if status < 300:
            return
        if status < 400:
            where = urlsplit(urljoin(self._url, answer.headers.get("Location", "")))
            target = self.without_secrets(shown_address(where.geturl()) + where.path)
            raise DeliveryError(
                f"{self._url} redirects to {target}: set mattermost_url to the address that people see", retry=False
            )
        error_id, said = _error_of(answer)
        if not error_id and status in (400, 401, 403, 404, 405):
            raise DeliveryError(
                f"{self._url} answered {status}, but not as Mattermost does: check mattermost_url (its sub-path too) "
                "and what stands before the server",
                retry=False,
            )
        wait = answer.headers.get("Retry-After") or answer.headers.get("X-RateLimit-Reset")
        raise ApiError(status, error_id, self.without_secrets(said), retry_after(wait))

    def _value(self, answer: Answer) -> Any:
        try:
            value = answer.json()
        except ValueError:
            value = None
        if isinstance(value, (dict, list)):
            return value
        raise DeliveryError(
            f"{self._url} answered with a page instead of JSON: check mattermost_url (its sub-path too) and what "
            "stands before the server"
        )

    def _too_slow(self) -> DeliveryError:
        return DeliveryError(
            f"{self._url} did not answer within {self._options['request_timeout']:g} s: is it overloaded, or does a "
            "firewall swallow the requests?"
        )

    def _unreachable(self, error: Exception) -> DeliveryError:
        if isinstance(error, requests.Timeout):
            return self._too_slow()
        if is_tls_error(error) or isinstance(error, requests.exceptions.SSLError):
            return DeliveryError(
                f"no TLS connection to {self._url}: {reason(error)}; set mattermost_ca_file to the certificate "
                "of your own CA, or correct mattermost_url",
                retry=False,
            )
        if isinstance(error, requests.exceptions.ProxyError):
            return DeliveryError(f"the proxy does not connect to {self._url}: check mattermost_proxy")
        if is_unknown_host(error):
            return DeliveryError(f"the host name in {self._url} cannot be resolved: check mattermost_url and DNS")
        if isinstance(error, requests.exceptions.InvalidSchema) and "socks" in str(error).lower():
            return DeliveryError("a SOCKS proxy needs a package: pip install 'requests[socks]'", retry=False)
        if isinstance(error, ValueError):  # requests' errors on a wrong URL, proxy or header
            return DeliveryError(
                f"no request can be made to {self._url} ({type(error).__name__}): check mattermost_url and "
                "mattermost_proxy",
                retry=False,
            )
        if type(error) is OSError and isinstance(self._verify, str):  # requests found no such file
            return DeliveryError(f"mattermost_ca_file cannot be read: {self._verify}", retry=False)
        return DeliveryError(f"no answer from {self._url} ({reason(error)}): is the server running?")


def _error_of(answer: Answer) -> tuple[str, str]:
    try:
        value = answer.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return "", answer.content[:_SAID_LIMIT].decode("utf-8", "replace") if value is None else ""
    return str(value.get("id") or ""), str(value.get("message") or "")
