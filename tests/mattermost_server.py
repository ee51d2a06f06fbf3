"""A small server that behaves like Mattermost's API for the endpoints that slowspan uses; its state can be read.

    with MattermostServer() as server:
        ...  # a client posts to server.url
        print(post_text(server, server.posts[0]))

Written from the public documentation of the API and from how servers answer. Request bodies are checked against schemas
of our own, more strictly than Mattermost does.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from types import TracebackType

    Body = dict[str, Any]

TOKEN = "bottoken0123456789abcdefgh"
LOGIN, PASSWORD = "slowspan@example.com", "correct horse battery staple"
TEAM, CHANNEL, OTHER_CHANNEL = "acme", "slow-requests", "elsewhere"
PENDING_SECONDS = 30.0
"""How long a server remembers a ``pending_post_id``."""

ID = "^[a-z0-9]{26}$"
TEXT = {"type": "string"}
SCHEMAS: Mapping[str, Body] = {
    "users/login": {
        "type": "object",
        "properties": {"login_id": TEXT, "password": TEXT, "token": TEXT},
        "required": ["login_id", "password"],
        "additionalProperties": False,
    },
    "posts": {
        "type": "object",
        "properties": {
            "channel_id": {"type": "string", "pattern": ID},
            "message": TEXT,
            "root_id": {"type": "string", "pattern": ID},
            "file_ids": {"type": "array", "items": {"type": "string", "pattern": ID}, "maxItems": 10},
            "pending_post_id": {"type": "string", "minLength": 1, "maxLength": 200},
            "props": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 200}},
        },
        "required": ["channel_id", "message"],
        "additionalProperties": False,
    },
}


class Refusal(Exception):
    """An error as Mattermost answers it."""

    def __init__(self, status: int, error_id: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"id": error_id, "message": message, "detailed_error": "", "request_id": "r", "status_code": status}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request. Without a status there is no answer at all."""

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = "text/html"
    handles: bool = False
    """Whether the request takes effect all the same."""
    silent: bool = False
    """Whether the connection stays open without an answer, else it is reset."""


RESET_BEFORE = Fault()
RESET_AFTER = Fault(handles=True)
SILENCE = Fault(silent=True)
HTML_PAGE = Fault(200, body=b"<!DOCTYPE html><title>Please log in</title>")
BAD_GATEWAY = Fault(502, body=b"<html><h1>502 Bad Gateway</h1></html>")
UNAVAILABLE = Fault(503, (("Retry-After", "7"),), b"down for maintenance", "text/plain")
INTERNAL_ERROR = Fault(500, body=json.dumps(Refusal(500, "app.error", "Something broke.").body).encode())
TOO_LARGE_FOR_PROXY = Fault(413, body=b"<html><h1>413 Request Entity Too Large</h1></html>")


def too_many_requests(seconds: int) -> Fault:
    """Return the answer of Mattermost's rate limiter."""
    headers = (("Retry-After", str(seconds)), ("X-RateLimit-Limit", "100"), ("X-RateLimit-Remaining", "0"))
    return Fault(429, headers, b"limit exceeded\n", "text/plain")


@dataclass
class StoredFile:
    """An uploaded file."""

    name: str
    content: bytes
    content_type: str
    channel_id: str
    post_id: str = ""


@dataclass(frozen=True)
class Seen:
    """A request as it came in, with the status of its answer (0 without one)."""

    method: str
    endpoint: str
    headers: Mapping[str, str]
    body: bytes
    status: int
    target: str
    """As in the request line: a whole URL when the request came as to a proxy."""


@dataclass
class MattermostServer:
    """The server; it serves from ``__enter__`` to ``__exit__``, with a thread for each connection."""

    base_path: str = ""
    tls: ssl.SSLContext | None = None
    max_file_size: int = 100 * 1024 * 1024
    max_message: int = 16383
    files_enabled: bool = True
    tells_configuration: bool = True
    storing: threading.Event = field(default_factory=threading.Event)
    """Set unless a test wants posts to wait before they are stored."""
    posts: list[Body] = field(default_factory=list)
    files: dict[str, StoredFile] = field(default_factory=dict)
    requests: list[Seen] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._ids = count(1)
        self.user_id, self.team_id = self.new_id("u"), self.new_id("t")
        self.channels = {self.new_id("c"): name for name in (CHANNEL, OTHER_CHANNEL)}
        self.channel_id = next(iter(self.channels))
        self.members = set(self.channels)
        self.archived: set[str] = set()
        self.tokens = {TOKEN}
        self.closing = threading.Event()
        self.storing.set()
        self._lock = threading.Lock()
        self._pending: dict[str, tuple[float, Body | None]] = {}
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        if self.tls is not None:
            # The handshake is left to the connection's thread: one that fails must not stop the others.
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="mattermost")

    @property
    def url(self) -> str:
        scheme, host = ("http", "127.0.0.1") if self.tls is None else ("https", "localhost")
        return f"{scheme}://{host}:{self._server.server_address[1]}{self.base_path}"

    def __enter__(self) -> MattermostServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def new_id(self, letter: str) -> str:
        return f"{letter}{next(self._ids):025}"

    def fail(self, endpoint: str, *faults: Fault) -> None:
        """Let the next requests of an endpoint (``posts``, ``files``, …) fail, one after the other."""
        self._faults[endpoint].extend(faults)

    def heal(self) -> None:
        """Forget the faults that have not happened yet."""
        self._faults.clear()

    def expire_sessions(self) -> None:
        """End the sessions of all who logged in with a password."""
        self.tokens = {TOKEN}

    def delete_post(self, post_id: str) -> None:
        """Delete a post, as a person would in the channel."""
        self.posts[:] = [post for post in self.posts if post["id"] != post_id]

    def next_fault(self, endpoint: str) -> Fault | None:
        with self._lock:
            return self._faults[endpoint].popleft() if self._faults[endpoint] else None

    def count(self, method: str, endpoint: str) -> int:
        """Return how many requests of an endpoint have come."""
        return sum(seen.method == method and seen.endpoint == endpoint for seen in self.requests)

    # What the endpoints do. Each returns status, body and headers, or raises a refusal.

    def answer(self, method: str, endpoint: str, query: str, headers: Mapping[str, str], body: bytes) -> Any:
        if method == "GET" and body:
            raise Refusal(400, "test.get_with_body", "A GET request must not have a body.")
        value = self._checked(endpoint, body)
        if endpoint == "users/login":
            return self._login(value)
        if endpoint == "system/ping":
            return 200, {"status": "OK"}, {}
        self._authenticate(headers)
        if (method, endpoint) == ("POST", "posts"):
            return 201, self._post(value), {}
        if (method, endpoint) == ("POST", "files"):
            return 201, self._upload(headers, body), {}
        if method == "GET":
            return 200, self._get(endpoint, query), {}
        raise Refusal(404, "api.context.404.app_error", "Sorry, we could not find the page.")

    def _checked(self, endpoint: str, body: bytes) -> Any:
        if endpoint not in SCHEMAS:
            return None
        try:
            value = json.loads(body)
            jsonschema.validate(value, SCHEMAS[endpoint])
        except (ValueError, jsonschema.ValidationError) as error:
            raise Refusal(400, "api.context.invalid_body_param.app_error", f"Invalid body: {error}") from error
        return value

    def _login(self, value: Body) -> Any:
        if (value["login_id"], value["password"]) != (LOGIN, PASSWORD):
            raise Refusal(401, "api.user.login.invalid_credentials_email_username", "Enter a valid email or password.")
        token = self.new_id("s")
        self.tokens.add(token)
        return 200, self._user(), {"Token": token, "Set-Cookie": f"MMAUTHTOKEN={token}; Path=/; HttpOnly"}

    def _user(self) -> Body:
        return {"id": self.user_id, "username": "slowspan"}

    def _authenticate(self, headers: Mapping[str, str]) -> None:
        refusal = Refusal(401, "api.context.session_expired.app_error", "Invalid or expired session.")
        # As Mattermost does: a cookie comes before the header, and then every request must prove where it comes from.
        if "MMAUTHTOKEN" in headers.get("Cookie", ""):
            raise refusal
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise refusal

    def _get(self, endpoint: str, query: str) -> Body:
        if endpoint == "users/me":
            return self._user()
        if endpoint == "config/client":
            return self._configuration(query)
        if match := re.fullmatch("teams/name/([^/]+)/channels/name/([^/]+)", endpoint):
            return self._channel_by_name(unquote(match[1]), unquote(match[2]))
        if match := re.fullmatch("channels/([^/]+)/posts", endpoint):
            return self._latest(match[1], int(parse_qs(query).get("per_page", ["60"])[0]))
        if match := re.fullmatch("channels/([^/]+)(/members/me)?", endpoint):
            return self._channel(match[1], member=bool(match[2]))
        raise Refusal(404, "api.context.404.app_error", "Sorry, we could not find the page.")

    def _configuration(self, query: str) -> Body:
        if parse_qs(query) != {"format": ["old"]}:
            raise Refusal(400, "api.config.client.old_format.app_error", "The format must be old.")
        if not self.tells_configuration:
            raise Refusal(403, "api.context.permissions.app_error", "You do not have the appropriate permissions.")
        return {"MaxFileSize": str(self.max_file_size), "MaxPostSize": str(self.max_message), "Version": "10.5.0"}

    def _channel_by_name(self, team: str, name: str) -> Body:
        if team != TEAM:
            raise Refusal(404, "app.team.get_by_name.missing.app_error", "Unable to find the existing team.")
        for channel_id, channel_name in self.channels.items():
            if channel_name == name:
                return self._channel(channel_id)
        raise Refusal(404, "app.channel.get_by_name.missing.app_error", "Channel does not exist.")

    def _channel(self, channel_id: str, *, member: bool = False) -> Body:
        if channel_id not in self.channels:
            raise Refusal(404, "app.channel.get.existing.app_error", "Unable to find the existing channel.")
        if member and channel_id not in self.members:
            raise Refusal(404, "app.channel.get_member.missing.app_error", "No channel member found for that user.")
        if member:
            return {"channel_id": channel_id, "user_id": self.user_id}
        archived_at = 1_700_000_000_000 if channel_id in self.archived else 0
        name = self.channels[channel_id]
        return {"id": channel_id, "team_id": self.team_id, "name": name, "type": "O", "delete_at": archived_at}

    def _latest(self, channel_id: str, number: int) -> Body:
        self._may_write(channel_id)
        posts = [post for post in reversed(self.posts) if post["channel_id"] == channel_id][:number]
        return {"order": [post["id"] for post in posts], "posts": {post["id"]: post for post in posts}}

    def _may_write(self, channel_id: str) -> None:
        if channel_id not in self.members:
            raise Refusal(403, "api.context.permissions.app_error", "You do not have the appropriate permissions.")

    def _upload(self, headers: Mapping[str, str], body: bytes) -> Body:
        if not self.files_enabled:
            raise Refusal(501, "api.file.attachments.disabled.app_error", "File attachments have been disabled.")
        parts = _form_parts(headers["Content-Type"], body)
        channel_id = next(content.decode() for name, _, _, content in parts if name == "channel_id")
        self._may_write(channel_id)
        infos = []
        for name, file_name, content_type, content in parts:
            if name != "files":
                continue
            if len(content) > self.max_file_size:
                raise Refusal(413, "api.file.upload_file.too_large_detailed.app_error", "The file is too large.")
            file_id = self.new_id("f")
            self.files[file_id] = StoredFile(file_name, content, content_type, channel_id)
            infos.append({"id": file_id, "name": file_name, "size": len(content)})
        if not infos:
            raise Refusal(400, "api.file.upload_file.no_files.app_error", "There is no file.")
        return {"file_infos": infos, "client_ids": []}

    def _post(self, value: Body) -> Body:
        self._may_write(value["channel_id"])
        pending = value.get("pending_post_id", "")
        with self._lock:
            since, stored = self._pending.get(pending, (0.0, None))
            if pending in self._pending and self.clock() - since < PENDING_SECONDS:
                if stored is None:
                    raise Refusal(500, "api.post.deduplicate_create_post.pending", "The post is being created.")
                return stored
            self._pending[pending] = (self.clock(), None)
        try:
            self.storing.wait(60)
            stored = self._store(value)
        except Refusal:
            del self._pending[pending]
            raise
        if pending:
            self._pending[pending] = (self.clock(), stored)
        else:
            del self._pending[pending]
        return stored

    def _store(self, value: Body) -> Body:
        root_id = value.get("root_id", "")
        if value["channel_id"] in self.archived:
            raise Refusal(400, "api.post.create_post.can_not_post_to_deleted.error", "The channel is archived.")
        if len(value["message"]) > self.max_message:
            raise Refusal(400, "model.post.is_valid.message_length.app_error", "Post Message property is too long.")
        root = next((post for post in self.posts if post["id"] == root_id), None)
        if root_id and (root is None or root["root_id"]):
            raise Refusal(400, "api.post.create_post.root_id.app_error", "Invalid RootId parameter.")
        if root is not None and root["channel_id"] != value["channel_id"]:
            raise Refusal(400, "api.post.create_post.channel_root_id.app_error", "Invalid ChannelId for RootId.")
        post = {"root_id": "", "file_ids": [], **value, "id": self.new_id("p"), "user_id": self.user_id}
        # A file belongs to one post: Mattermost leaves others out without an error.
        post["file_ids"] = [id for id in post["file_ids"] if id in self.files and not self.files[id].post_id]
        for id in post["file_ids"]:
            self.files[id].post_id = post["id"]
        self.posts.append(post)
        return post


def post_text(server: MattermostServer, post: Body) -> str:
    """Return a post as text, as a person would see it: its thread, its message, its files."""
    lines = [f"#{server.channels[post['channel_id']]} · @slowspan{' replies' if post['root_id'] else ''}"]
    lines += post["message"].replace("\u200b", "").split("\n")
    lines += [f"[{server.files[id].name}, {len(server.files[id].content)} bytes]" for id in post["file_ids"]]
    return "\n".join(lines)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: MattermostServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that break off are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: the requests are in ``MattermostServer.requests``."""

    def _handle(self) -> None:
        owner = self.server.owner
        target = urlsplit(self.path)
        prefix = f"{owner.base_path}/api/v4/"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not target.path.startswith(prefix):
            # The web application answers every path that it does not know.
            self._send(200, "text/html", HTML_PAGE.body, {})
            return
        endpoint = target.path[len(prefix) :]
        fault = owner.next_fault(endpoint)
        status, value, headers = 0, None, {}
        if fault is None or fault.handles:
            try:
                status, value, headers = owner.answer(self.command, endpoint, target.query, self.headers, body)
            except Refusal as refusal:
                status, value = refusal.status, refusal.body
        if fault is not None:
            status = fault.status or 0
        seen = Seen(self.command, endpoint, dict(self.headers), body, status, self.path)
        owner.requests.append(seen)
        if fault is not None:
            self._go_wrong(fault)
        else:
            self._send(status, "application/json", json.dumps(value).encode(), headers)

    def _go_wrong(self, fault: Fault) -> None:
        if fault.silent:
            self.server.owner.closing.wait(60)
        if fault.status is None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._send(fault.status, fault.content_type, fault.body, dict(fault.headers))

    def _send(self, status: int, content_type: str, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, text in {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)


def _form_parts(content_type: str, body: bytes) -> list[tuple[str, str, str, bytes]]:
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts = []
    for part in message.iter_parts():
        name = str(part.get_param("name", "", header="content-disposition"))
        parts.append((name, part.get_filename() or "", part.get_content_type(), part.get_payload(decode=True) or b""))
    return parts
