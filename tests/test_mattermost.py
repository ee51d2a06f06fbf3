"""The notifier ``mattermost``: the real ``mattermostdriver`` against a server that behaves like Mattermost's."""

from __future__ import annotations

import gzip
import logging
import ssl
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import trustme
from opentelemetry.instrumentation.utils import suppress_instrumentation

import mattermost_server as fake
from http_server import TunnellingProxy
from mattermost_server import LOGIN, PASSWORD, TOKEN, Fault, MattermostServer
from profiles import SECOND
from reports import PAGE, make_report
from slowspan.config import Settings
from slowspan.notifiers.base import DeliveryError, Notifier
from slowspan.notifiers.mattermost import ROOT_NOTE, MattermostNotifier
from slowspan.notifiers.registry import NotifierError
from slowspan.report.alert import Alert, Digest
from slowspan.report.renderer import RenderError
from support import eventually, instrumented_requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slowspan.report.report import Report

CHANNEL = f"{fake.TEAM}/{fake.CHANNEL}"


@pytest.fixture
def server() -> Iterator[MattermostServer]:
    with MattermostServer() as server:
        yield server


def make_notifier(server: MattermostServer, **changes: Any) -> MattermostNotifier:
    values: dict[str, Any] = {"url": server.url, "channel": CHANNEL, "timeout": 20.0, **changes}
    if "login" not in values:
        values.setdefault("token", TOKEN)
    return MattermostNotifier(values.pop("url"), values.pop("channel"), **values)


def note(server: MattermostServer) -> str:
    """Return the name of the note on the thread in the channel of ``make_notifier``."""
    return f"{ROOT_NOTE}.{server.channel_id}"


def make_alert(number: int = 1, notes: dict[str, str] | None = None, **changes: Any) -> Report:
    report = make_report(number, **changes)
    report.alert = Alert(key="k" * 32, notes={} if notes is None else notes)
    return report


def refused(notifier: MattermostNotifier, report: Report | None = None) -> DeliveryError:
    """Return the error of a delivery that must fail."""
    with pytest.raises(DeliveryError) as caught:
        notifier.notify(report or make_alert())
    return caught.value


def file_names(server: MattermostServer, post: dict[str, Any]) -> list[str]:
    return [server.files[id].name for id in post["file_ids"]]


def test_alert_is_posted_with_its_page(server: MattermostServer) -> None:
    """An alert becomes one post: the message, and the page as a file named like the report."""
    notifier = make_notifier(server)
    assert isinstance(notifier, Notifier)
    report = make_alert()
    notifier.notify(report)
    [post] = server.posts
    assert post["channel_id"] == server.channel_id
    assert post["message"].startswith("**Slow request** `GET /orders/<id>` took **1.42 s**")
    assert file_names(server, post) == [f"{report.profile.name}.html"]
    assert server.files[post["file_ids"][0]].content == PAGE
    assert post["root_id"] == ""
    assert f"#{fake.CHANNEL} · @slowspan\n**Slow request**" in fake.post_text(server, post)
    assert notifier.force_flush()
    notifier.shutdown()
    notifier.notify(make_alert(2))
    assert len(server.posts) == 1


@pytest.mark.parametrize("how", ["token", "password"])
@pytest.mark.parametrize("where", ["name", "id", "name with tilde"])
def test_accounts_and_channels(server: MattermostServer, how: str, where: str) -> None:
    """A token works, and login and password; so do a channel's name with its team's, and its id."""
    account = {"token": TOKEN} if how == "token" else {"login": LOGIN, "password": PASSWORD}
    channel = {"name": CHANNEL, "id": server.channel_id, "name with tilde": f"{fake.TEAM}/~{fake.CHANNEL}"}[where]
    notifier = make_notifier(server, channel=channel, **account)
    notifier.notify(make_alert())
    assert [post["channel_id"] for post in server.posts] == [server.channel_id]
    assert "posts to slow-requests" in notifier.check()
    assert "as @slowspan, files up to 100 MB" in notifier.check()
    assert len(server.posts) == 1, "a check tells nobody anything"


def test_settings_make_the_notifier(server: MattermostServer, tmp_path: Path) -> None:
    """The notifier is made of the settings, and takes less than the limit on one try."""
    settings = Settings(
        mattermost_url=server.url,
        mattermost_token=TOKEN,
        mattermost_channel=CHANNEL,
        mattermost_threads=False,
        notify_timeout=1.0,
    )
    server.fail("users/me", fake.SILENCE)
    assert "did not answer within 0.9 s" in str(refused(MattermostNotifier.from_settings(settings)))
    notifier = MattermostNotifier.from_settings(replace(settings, notify_timeout=30.0))
    notifier.notify(make_alert(notes={note(server): "p" * 26}))
    assert server.posts[0]["root_id"] == ""
    with pytest.raises(NotifierError, match="needs the settings mattermost_url and mattermost_channel"):
        MattermostNotifier.from_settings(Settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "chat.example.com"}, "mattermost_url must be a URL"),
        ({"url": "https://me:hunter2@chat.example.com"}, "mattermost_url must be a URL"),
        ({"url": "http://[oops"}, "mattermost_url must be a URL"),
        ({"url": "http://host:port"}, "mattermost_url must be a URL"),
        ({"channel": "town-square"}, "mattermost_channel must be the channel's id"),
        ({"channel": "a/b/c"}, "mattermost_channel must be the channel's id"),
        ({"token": None}, "needs mattermost_token, or mattermost_login and"),
        ({"token": None, "login": "me"}, "needs mattermost_token, or mattermost_login and"),
        ({"token": "hunter2 hunter2"}, "characters that no token has"),
        ({"token": "hunter2\u20ac"}, "characters that no token has"),
    ],
)
def test_wrong_settings_are_refused(server: MattermostServer, changes: dict[str, Any], message: str) -> None:
    """A setting that cannot work is refused when the notifier is made, without a secret in the message."""
    with pytest.raises(NotifierError, match=message) as caught:
        make_notifier(server, **changes)
    assert "hunter2" not in str(caught.value)


def test_missing_package_is_named(server: MattermostServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the message says what to install."""
    monkeypatch.setitem(sys.modules, "mattermostdriver", None)
    with pytest.raises(NotifierError, match=r"pip install 'slowspan\[mattermost\]'"):
        make_notifier(server)


def test_later_alert_is_a_reply(server: MattermostServer) -> None:
    """A later alert of a key goes into the first one's thread; when that is gone, it begins a new one."""
    notifier = make_notifier(server)
    notes: dict[str, str] = {}
    for number in (1, 2, 3):
        notifier.notify(make_alert(number, notes))
    first = server.posts[0]["id"]
    assert [post["root_id"] for post in server.posts] == ["", first, first]
    assert notes == {note(server): first}
    server.delete_post(first)
    notifier.notify(make_alert(4, notes))
    assert server.posts[-1]["root_id"] == ""
    assert notes == {note(server): server.posts[-1]["id"]}
    assert file_names(server, server.posts[-1]) == [make_report(4).profile.name + ".html"]


def test_each_channel_has_its_thread(server: MattermostServer) -> None:
    """In another channel, after a change of it or by a second notifier, the alert is posted anew; later ones reply."""
    notes: dict[str, str] = {}
    one, other = make_notifier(server), make_notifier(server, channel=f"{fake.TEAM}/{fake.OTHER_CHANNEL}")
    for number in (1, 2, 3):
        for notifier in (one, other):
            notifier.notify(make_alert(number, notes))
    ids = [post["id"] for post in server.posts]
    assert [post["root_id"] for post in server.posts] == ["", "", *ids[:2], *ids[:2]]


def test_thread_of_another_channel_is_left(server: MattermostServer) -> None:
    """When the noted post has been moved into another channel, the alert is posted anew."""
    notes: dict[str, str] = {}
    make_notifier(server, channel=f"{fake.TEAM}/{fake.OTHER_CHANNEL}").notify(make_alert(1, notes))
    moved = {note(server): server.posts[0]["id"]}
    make_notifier(server).notify(make_alert(2, moved))
    assert server.posts[1]["root_id"] == ""
    assert moved == {note(server): server.posts[1]["id"]}


def test_threads_can_be_off(server: MattermostServer) -> None:
    """With ``mattermost_threads`` off, every alert is a post of its own and nothing is noted."""
    notes: dict[str, str] = {}
    notifier = make_notifier(server, threads=False)
    for number in (1, 2):
        notifier.notify(make_alert(number, notes))
    assert [post["root_id"] for post in server.posts] == ["", ""]
    assert notes == {}


def test_partial_and_final_reports(server: MattermostServer) -> None:
    """A partial report says that the request still runs; the final one of the same request is a post of its own."""
    notifier = make_notifier(server)
    notes: dict[str, str] = {}
    notifier.notify(make_alert(1, notes, running=True, duration_ns=10 * SECOND))
    notifier.notify(make_alert(1, notes, duration_ns=20 * SECOND))
    assert ["still running" in post["message"] for post in server.posts] == [True, False]
    assert server.posts[1]["root_id"] == server.posts[0]["id"]


def test_digest_is_posted(server: MattermostServer) -> None:
    """What was held back is told in a post without a file, once however often it is tried."""
    notifier = make_notifier(server)
    digest = Digest(hour_ns=3600 * SECOND, alerts=12, endpoints=(("GET /@all", 12, SECOND),))
    notifier.notify_digest(digest)
    notifier.notify_digest(digest)
    [post] = server.posts
    assert "12 alerts were held back" in post["message"]
    assert post["file_ids"] == []


def test_expired_session_logs_in_again(server: MattermostServer) -> None:
    """When a session of login and password has expired, the notifier logs in again and the alert goes through."""
    notifier = make_notifier(server, login=LOGIN, password=PASSWORD)
    notifier.notify(make_alert(1))
    server.expire_sessions()
    notifier.notify(make_alert(2))
    assert len(server.posts) == 2
    assert server.count("POST", "users/login") == 2


@pytest.mark.parametrize("fault", [fake.RESET_BEFORE, fake.RESET_AFTER, Fault(500, handles=True)])
def test_post_of_which_the_answer_is_lost_is_posted_once(server: MattermostServer, fault: Fault) -> None:
    """Reset before or after the post was stored: a further try makes one post, with the page uploaded once."""
    notifier = make_notifier(server)
    report = make_alert()
    server.fail("posts", fault)
    assert refused(notifier, report).retry
    notifier.notify(report)
    [post] = server.posts
    assert file_names(server, post) == [f"{report.profile.name}.html"]
    assert server.count("POST", "files") == 1
    assert report.alert is not None
    assert report.alert.notes == {note(server): post["id"]}


@pytest.mark.parametrize("fault", [fake.RESET_AFTER, Fault(502, handles=True)])
def test_post_of_which_the_answer_is_lost_is_recognized_later(server: MattermostServer, fault: Fault) -> None:
    """After the time for which the server recognizes a repeated post, the notifier does, in a thread too."""
    now = [0.0]
    server.clock = lambda: now[0]
    notifier = make_notifier(server)
    notes: dict[str, str] = {}
    for number in (1, 2):
        report = make_alert(number, notes)
        server.fail("posts", fault)
        refused(notifier, report)
        now[0] += 3600
        notifier.notify(report)
    assert len(server.posts) == 2
    assert server.count("POST", "files") == 2
    assert server.posts[1]["root_id"] == server.posts[0]["id"] == notes[note(server)]


def test_post_that_was_not_stored_is_posted_later(server: MattermostServer) -> None:
    """When the earlier try was not stored, also where the account may not read the channel, the alert is posted."""
    notifier = make_notifier(server)
    for number in (1, 2):
        report = make_alert(number)
        server.fail("posts", fake.RESET_BEFORE)
        server.fail(f"channels/{server.channel_id}/posts", *[fake.INTERNAL_ERROR] * (number - 1))
        refused(notifier, report)
        notifier.notify(report)
    assert len(server.posts) == 2
    assert server.count("GET", f"channels/{server.channel_id}/posts") == 2


def test_lost_upload_answer_is_uploaded_again(server: MattermostServer) -> None:
    """When the answer to the upload is lost, the file's id is: the next try uploads again and posts one file."""
    notifier = make_notifier(server)
    report = make_alert()
    server.fail("files", fake.RESET_AFTER)
    assert refused(notifier, report).retry
    notifier.notify(report)
    assert [len(post["file_ids"]) for post in server.posts] == [1]
    assert len(server.files) == 2


def test_broken_file_store_does_not_hold_the_alert_back(server: MattermostServer) -> None:
    """When uploads go on failing, the alert is told without its page, and says so."""
    notifier = make_notifier(server)
    report = make_alert()
    server.fail("files", *[fake.INTERNAL_ERROR] * 5)
    assert refused(notifier, report).retry
    notifier.notify(report)
    assert server.posts[0]["file_ids"] == []
    assert server.posts[0]["message"].endswith("The page is not attached: uploading it failed.")


def test_twin_that_is_still_being_stored_is_waited_for(server: MattermostServer) -> None:
    """While an earlier try is being stored, the server refuses the next: it is to be repeated in a second."""
    server.storing.clear()
    impatient = make_notifier(server)
    first, second = make_alert(), make_alert()
    thread = threading.Thread(target=make_notifier(server).notify, args=(first,))
    thread.start()
    eventually(lambda: server._pending)
    error = refused(impatient, second)
    assert (error.retry, error.retry_after) == (True, 1.0)
    server.storing.set()
    thread.join()
    impatient.notify(second)
    assert len(server.posts) == 1


def noise(seed: int, size: int) -> bytes:
    """Return bytes that do not compress."""
    import random

    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(
    ("page", "ending", "remark"),
    [
        (b"x" * 20_000, ".html.gz", "it is attached compressed."),
        (noise(1, 20_000), ".txt", "the report is attached as text."),
    ],
)
def test_page_over_the_limit(tells: bool, page: bytes, ending: str, remark: str) -> None:
    """A page over the server's limit is sent compressed, or as text, with a word on it."""
    with MattermostServer(max_file_size=8_000, tells_configuration=tells) as server:
        report = make_alert(render_html=lambda stored: page)
        make_notifier(server).notify(report)
        [post] = server.posts
        assert file_names(server, post) == [report.profile.name + ending]
        assert post["message"].endswith(f"The page is larger than this server takes: {remark}")
        content = server.files[post["file_ids"][0]].content
        assert gzip.decompress(content) == page if ending == ".html.gz" else b"total_for" in content
        refusals = 0 if tells else {".html.gz": 1, ".txt": 2}[ending]
        assert [seen.status for seen in server.requests if seen.endpoint == "files"] == [413] * refusals + [201]


def test_text_of_a_deep_stack_is_no_failure(server: MattermostServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the page is too large, and the text is too deep to be made here, the alert is told without either."""

    def render(*_: object) -> str:
        raise RecursionError

    monkeypatch.setattr("slowspan.report.text.render_text", render)
    server.fail("files", *[fake.TOO_LARGE_FOR_PROXY] * 2)
    make_notifier(server).notify(make_alert())
    assert server.posts[0]["message"].endswith("not attached: it is larger than this server takes.")


def test_proxy_that_takes_no_large_files(server: MattermostServer) -> None:
    """A 413 of a proxy, which is no JSON, counts like the server's own."""
    server.fail("files", *[fake.TOO_LARGE_FOR_PROXY] * 3)
    make_notifier(server).notify(make_alert())
    assert server.posts[0]["message"].endswith("not attached: it is larger than this server takes.")


def test_server_without_attachments() -> None:
    """Where files are switched off, the alert is told without its page."""
    with MattermostServer(files_enabled=False) as server:
        make_notifier(server).notify(make_alert())
        assert server.posts[0]["message"].endswith("this account may not upload files.")


def test_page_that_cannot_be_made(server: MattermostServer) -> None:
    """When no page can be rendered, the alert is told without, and says how to see the report."""

    def render(stored: bytes) -> bytes:
        raise RenderError("no memory")

    make_notifier(server).notify(make_alert(render_html=render))
    [post] = server.posts
    assert post["file_ids"] == []
    assert post["message"].endswith("see `slowspan show 0000000000000001`.")


def test_message_keeps_the_limit_of_the_server() -> None:
    """The message is cut to what the server takes."""
    with MattermostServer(max_message=300) as server:
        make_notifier(server).notify(make_alert())
        assert 100 < len(server.posts[0]["message"]) <= 300


NOT_OURS = Fault(200, body=b'{"something": "else"}', content_type="application/json")
CHANNEL_PATH = CHANNEL.replace("/", "/channels/name/")
REMEDIES = [
    ({}, "posts", fake.too_many_requests(3), True, 3.0, "rate limit is reached"),
    ({}, "posts", fake.UNAVAILABLE, True, 7.0, "refused the post (503: down for maintenance)"),
    ({}, "posts", fake.INTERNAL_ERROR, True, None, "refused the post (500: Something broke.)"),
    ({}, "posts", fake.BAD_GATEWAY, True, None, "502"),
    ({}, "posts", fake.HTML_PAGE, True, None, "a page instead of JSON: check mattermost_url"),
    ({}, "users/me", fake.HTML_PAGE, True, None, "check mattermost_url"),
    ({"login": LOGIN, "password": PASSWORD}, "users/login", fake.HTML_PAGE, True, None, "check mattermost_url"),
    ({}, "users/me", NOT_OURS, True, None, "check mattermost_url"),
    ({}, f"teams/name/{CHANNEL_PATH}", NOT_OURS, True, None, "check mattermost_url"),
    ({}, "files", NOT_OURS, True, None, "names no file"),
    ({}, "posts", Fault(302, (("Location", "/login"),)), False, None, "/login: set mattermost_url"),
    ({}, "posts", Fault(429, (("Retry-After", "Sat, 01 Jan 2000 00:00:00 GMT"),)), True, 0.0, "(429)"),
    ({}, "posts", Fault(429, (("Retry-After", "nan"),)), True, None, "(429)"),
    ({}, "posts", Fault(429, (("X-RateLimit-Reset", "99999999"),)), True, 3600.0, "(429)"),
    ({}, "posts", fake.RESET_BEFORE, True, None, "the connection was closed"),
    ({}, "posts", replace(fake.HTML_PAGE, status=403), False, None, "not as Mattermost does: check mattermost_url"),
    (
        {},
        "posts",
        Fault(302, (("Location", "https://me:pw@new.example/api/v4/posts?x=1"),)),
        False,
        None,
        "redirects to",
    ),
    ({}, "posts", Fault(400, body=b"[1]", content_type="application/json"), False, None, "check mattermost_url"),
    ({}, "posts", Fault(413), False, None, "413"),
    ({}, "posts", Fault(401, body=b'{"id": "a.b", "message": "no"}'), False, None, "create a new token"),
    ({"timeout": 0.2}, "posts", fake.SILENCE, True, None, "did not answer within 0.2 s"),
    ({"timeout": 0.2}, "users/me", fake.SILENCE, True, None, "did not answer within 0.2 s"),
    ({"token": "f" * 26}, None, None, False, None, "does not accept mattermost_token (401"),
    ({"login": LOGIN, "password": "wrong"}, None, None, False, None, "mattermost_login with mattermost_password"),
    ({"channel": "nobody/x"}, None, None, False, None, "no team 'nobody'"),
    ({"channel": "acme/x"}, None, None, False, None, "invite @slowspan to the channel"),
]


ARCHIVED = b'{"id": "api.post.create_post.can_not_post_to_deleted.error", "message": "The channel is archived."}'
TOO_LONG = b'{"id": "model.post.is_valid.message_length.app_error", "message": "Post Message property is too long."}'


@pytest.mark.parametrize(
    ("endpoint", "fault", "of_message"),
    [
        ("posts", Fault(413), True),
        ("posts", Fault(400, body=TOO_LONG), True),
        ("posts", Fault(400, body=ARCHIVED), False),
        ("posts", Fault(403), False),
        ("users/me", Fault(401), False),
        ("users/me", Fault(400), False),
    ],
)
def test_what_is_refused(server: MattermostServer, endpoint: str, fault: Fault, of_message: bool) -> None:
    """A post that is refused for its own sake is told apart from what keeps every post from being taken."""
    server.fail(endpoint, fault)
    error = refused(make_notifier(server))
    assert not error.retry
    assert getattr(error, "of_message", False) == of_message


@pytest.mark.parametrize(("changes", "endpoint", "fault", "retry", "retry_after", "message"), REMEDIES)
def test_errors_say_what_to_do(
    server: MattermostServer,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    endpoint: str | None,
    fault: Fault | None,
    retry: bool,
    retry_after: float | None,
    message: str,
) -> None:
    """Each failure says what to do, whether and when to try again, and neither it nor any log has a secret."""
    for logger in (None, "mattermostdriver.api", "mattermostdriver.websocket"):
        caplog.set_level(logging.DEBUG, logger=logger)
    notifier = make_notifier(server, **changes)
    if endpoint and fault:
        server.fail(endpoint, fault)
    error = refused(notifier)
    assert (error.retry, error.retry_after) == (retry, retry_after)
    assert message in str(error)
    assert "\n" not in str(error)
    told = f"{error!r} {error} {notifier!r} {caplog.text} {vars(error)}"
    for secret in (*server.tokens, PASSWORD, "f" * 26, "me:pw"):
        assert secret not in told
    if fault is not None:
        server.heal()
        notifier._client._options["request_timeout"] = 20.0
        notifier.notify(make_alert())
        assert len(server.posts) == 1, "the failure left nothing behind"


def test_bot_outside_the_channel_is_told_to_be_invited(server: MattermostServer) -> None:
    """A bot that is not in the channel learns of it at the check; once invited, it posts with the page."""
    notifier = make_notifier(server)
    server.members.clear()
    report = make_alert()
    error = refused(notifier, report)
    assert not error.retry
    assert "@slowspan may not post to the channel 'acme/slow-requests'" in str(error)
    assert "/invite @slowspan" in str(error)
    with pytest.raises(DeliveryError, match="/invite @slowspan"):
        notifier.check()
    server.members.add(server.channel_id)
    notifier.notify(report)
    assert len(server.posts[0]["file_ids"]) == 1


def test_archived_channel(server: MattermostServer) -> None:
    """A channel that is archived is found by the check, and told of when a post fails."""
    server.archived.add(server.channel_id)
    notifier = make_notifier(server)
    with pytest.raises(DeliveryError, match="is archived: set another mattermost_channel"):
        notifier.check()
    error = refused(notifier)
    assert "is archived: set another mattermost_channel" in str(error)
    assert not error.retry


def test_server_that_echoes_secrets(server: MattermostServer) -> None:
    """What a server says is told without our secrets, on one line, and bounded."""
    body = b'{"id": "x.y", "message": "bad\\n\\u202e token ' + TOKEN.encode() + b" " + b"x" * 5000 + b'"}'
    server.fail("posts", Fault(400, body=body))
    error = refused(make_notifier(server))
    assert TOKEN not in str(error)
    assert "bad \\u202e token [redacted] xxx" in str(error)
    assert len(str(error)) < 400


def test_unreachable_servers(server: MattermostServer) -> None:
    """A refused connection, a name that does not resolve and a sub-path that is wrong are told apart."""
    with MattermostServer() as gone:
        pass
    assert "is the server running?" in str(refused(make_notifier(server, url=gone.url)))
    unknown = refused(make_notifier(server, url="http://chat.invalid"))
    assert unknown.retry
    assert "http://chat.invalid:80/api/v4 cannot be resolved: check mattermost_url and DNS" in str(unknown)
    assert "sub-path" in str(refused(make_notifier(server, url=f"{server.url}/chat")))


def test_endless_answer_is_cut(server: MattermostServer) -> None:
    """An answer without end is not read into memory."""
    server.fail("posts", Fault(200, body=b"x" * 5_000_000))
    assert "more than 4000000 bytes" in str(refused(make_notifier(server)))


def test_sub_path() -> None:
    """A server below a path of its address is found, also when the address names the API."""
    with MattermostServer(base_path="/tools/chat") as server:
        make_notifier(server, url=server.url + "/").notify(make_alert(1))
        make_notifier(server, url=server.url + "/api/v4").notify(make_alert(2))
        assert len(server.posts) == 2


def test_proxy(server: MattermostServer) -> None:
    """With a proxy, requests go to it and not to the server; its password is in no message."""
    proxy = server.url.replace("http://", "http://me:hunter2@")
    make_notifier(server, url="http://chat.invalid:8065", proxy=proxy).notify(make_alert())
    assert len(server.posts) == 1
    assert {seen.target.partition("/api")[0] for seen in server.requests} == {"http://chat.invalid:8065"}
    with MattermostServer() as gone:
        pass
    proxy = gone.url.replace("http://", "http://me:hunter2@")
    error = refused(make_notifier(server, url="http://chat.invalid:8065", proxy=proxy))
    assert "check mattermost_proxy" in str(error)
    assert "hunter2" not in f"{error!r}{error.__cause__}"
    assert error.__suppress_context__


def test_socks_proxy_needs_a_package(server: MattermostServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy without the package for it says what to install."""
    monkeypatch.setitem(sys.modules, "socks", None)
    monkeypatch.delitem(sys.modules, "urllib3.contrib.socks", raising=False)
    error = refused(make_notifier(server, proxy="socks5://me:hunter2@127.0.0.1:1"))
    assert not error.retry
    assert "hunter2" not in str(error)
    assert "proxy" in str(error)


def test_own_ca(tmp_path: Path) -> None:
    """A server with a certificate of an own CA is trusted with ``mattermost_ca_file``, and not without."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with MattermostServer(tls=context) as server:
        make_notifier(server, ca_file=ca_file).notify(make_alert())
        assert len(server.posts) == 1
        error = refused(make_notifier(server))
        assert not error.retry
        assert "unable to get local issuer certificate; set mattermost_ca_file" in str(error)
        (tmp_path / "wrong.pem").write_text("no certificate")
        assert "set mattermost_ca_file" in str(refused(make_notifier(server, ca_file=tmp_path / "wrong.pem")))
        missing = refused(make_notifier(server, ca_file=tmp_path / "missing.pem"))
        assert "mattermost_ca_file cannot be read" in str(missing)
        plain = refused(make_notifier(server, url=server.url.replace("https", "http"), timeout=2.0))
        assert "check" in str(plain) or "is the server running?" in str(plain)


def test_own_ca_behind_a_proxy_and_under_a_sub_path(tmp_path: Path) -> None:
    """All at once: the proxy resolves the server's name, sees the tunnel only, and the CA is still checked."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("chat.invalid").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with MattermostServer(tls=context, base_path="/chat") as server:
        port = urlsplit(server.url).port or 0
        with TunnellingProxy(("127.0.0.1", port)) as tunnel:
            where = {"url": f"https://chat.invalid:{port}/chat", "proxy": f"http://me:hunter2@127.0.0.1:{tunnel.port}"}
            make_notifier(server, ca_file=ca_file, **where).notify(make_alert())
            assert "unable to get local issuer certificate" in str(refused(make_notifier(server, **where)))
    assert len(server.posts) == 1
    assert {request.partition(" HTTP/")[0] for request in tunnel.requests} == {f"CONNECT chat.invalid:{port}"}
    assert not any(TOKEN in request for request in tunnel.requests)


def test_tls_with_a_server_that_has_none(server: MattermostServer) -> None:
    """An https address of a server that speaks http is told as what it is."""
    error = refused(make_notifier(server, url=server.url.replace("http", "https")))
    assert "no TLS connection" in str(error)


def test_netrc_does_not_replace_the_token(
    server: MattermostServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login for the server in ``.netrc``, which requests reads, does not take the token's place."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    make_notifier(server).notify(make_alert())
    assert {seen.headers["Authorization"] for seen in server.requests} == {f"Bearer {TOKEN}"}


def test_requests_are_no_spans(server: MattermostServer) -> None:
    """On a delivery thread, where instrumentation is suppressed, requests make no spans and carry no trace."""
    with instrumented_requests() as (tracer, exporter):
        with tracer.start_as_current_span("request"), suppress_instrumentation():
            make_notifier(server).notify(make_alert())
        assert [span.name for span in exporter.get_finished_spans()] == ["request"]
        assert not any("traceparent" in map(str.lower, seen.headers) for seen in server.requests)
        make_notifier(server).notify(make_alert(2))
        assert len(exporter.get_finished_spans()) > 1, "the instrumentation does nothing"


def test_memory_is_bounded(server: MattermostServer) -> None:
    """Reports that are never posted do not pile up."""
    notifier = make_notifier(server, threads=False)
    server.fail("posts", *[fake.RESET_BEFORE] * 40)
    for number in range(40):
        refused(notifier, make_alert(number))
    assert len(notifier._uploads._attachments) <= 16


def test_no_connection_is_left_open(server: MattermostServer) -> None:
    """Between two alerts no connection is open, whatever happened: servers drop those that idle."""
    notifier = make_notifier(server)
    server.fail("posts", fake.INTERNAL_ERROR)
    refused(notifier)
    notifier.notify(make_alert())
    pools = [adapter.poolmanager.pools for adapter in notifier._client._session.adapters.values()]
    assert sum(map(len, pools)) == 0
