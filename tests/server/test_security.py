"""Attacks on the server: other sites, other names, no token, forged sessions, models that would sign for themselves."""

import re
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from agentflow.errors import UsageError
from agentflow.server.access import Access
from agentflow.server.app import create_app
from agentflow.server.guard import PUBLIC_PATHS
from agentflow.server.serving import Server
from agentflow.workers.inline import InlineWorker
from tests.server import flows_under_test
from tests.server.conftest import Running, Serve

TOKEN = "a-token-of-more-than-sixteen"
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


async def mounted_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands in for the MCP app: no checks of its own, answers with what it sees."""
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["born"] = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    text = f"{scope['path']} {scope.get('state', {}).get('born')}"
    await send({"type": "http.response.body", "body": text.encode()})


def every_route(running: Running) -> list[tuple[str, str]]:
    """(method, path) of all routes of the app, with made-up ids."""
    app = create_app(running.worker, allowed_hosts=[], token=None)
    found: list[tuple[str, str]] = []
    for route in app.routes:
        if isinstance(route, Route):
            path = re.sub(r"\{\w+\}", "00000000", route.path)
            found += [(method, path) for method in route.methods or ()]
        elif isinstance(route, Mount):
            found.append(("GET", f"{route.path}/app.css"))
    assert len(found) > 30
    return found


def test_without_the_token_nothing_is_shown(serve: Serve) -> None:
    """Every route but health, the login page and static files answers 401 without the token, whatever is appended."""
    running = serve(token=TOKEN, mount={"/mcp": mounted_app})
    client = running.client()
    for method, path in [*every_route(running), ("GET", "/mcp"), ("POST", "/mcp"), ("GET", "/mcp/x")]:
        for suffix in ("", "/health", "?x=/health", "/login", "/static/app.css"):
            whole = path + suffix
            status = client.request(method, whole).status_code
            bare = whole.partition("?")[0]
            if bare in PUBLIC_PATHS or (bare.startswith("/static/") and path.startswith("/static/")):
                assert status != 401
            else:
                assert status == 401, (method, whole)


def test_with_the_token_programs_get_in(serve: Serve) -> None:
    """A program shows the token as a bearer; a wrong, shortened or empty one is no token."""
    running = serve(token=TOKEN, mount={"/mcp": mounted_app})
    assert running.client(authorization=f"Bearer {TOKEN}").get("/api/runs").status_code == 200
    assert running.client(authorization=f"Bearer {TOKEN}").get("/mcp").text == "/mcp True"
    for wrong in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", f"Basic {TOKEN}", TOKEN, "Bearer ü"):
        headers = [(b"authorization", wrong.encode())]
        answer = httpx2.get(f"{running.url}/api/runs", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_person_signs_in_with_the_token(serve: Serve) -> None:
    """The login page takes the token, remembers the person's name, and the next page is where they wanted to go."""
    running = serve(token=TOKEN)
    wait = running.asked(start_with_token(running, "survey"))
    person = running.person()
    sent_away = person.open(f"/approvals/{wait.id}")
    assert sent_away.status_code == 303
    assert sent_away.headers["location"] == f"/login?next=%2Fapprovals%2F{wait.id}"
    assert person.submit("/login", token="wrong", next="/").status_code == 403
    entered = person.submit("/login", token=TOKEN, next=f"/approvals/{wait.id}", actor="Ann")
    assert (entered.status_code, entered.headers["location"]) == (303, f"/approvals/{wait.id}")
    assert {"HttpOnly", "SameSite=Strict"} <= set(entered.headers["set-cookie"].split("; "))
    assert person.open(f"/approvals/{wait.id}").status_code == 200
    assert person.submit(f"/approvals/{wait.id}", digest=wait.digest, verdict="deny").status_code == 303
    decided = running.journal.get_wait(wait.id)
    assert decided is not None
    assert decided.decision is not None
    assert decided.decision.actor == "Ann"


def start_with_token(running: Running, flow: str) -> str:
    client = running.client(authorization=f"Bearer {TOKEN}")
    return client.post("/api/runs", json={"flow": flow}).json()["run_id"]


@pytest.mark.parametrize(
    "after", ["//evil.example", "https://evil.example", "/\\evil.example", "\\evil", "/\t/evil.example"]
)
def test_the_login_page_leads_nowhere_else(serve: Serve, after: str) -> None:
    """The page after the login is one of this server."""
    running = serve(token=TOKEN)
    entered = running.person().submit("/login", token=TOKEN, next=after)
    assert entered.headers["location"] == "/"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example:80", "", "[::1].evil"],
)
def test_other_names_are_not_answered_to(serve: Serve, host: str) -> None:
    """A page of another site whose name points here (DNS rebinding) reads nothing and starts nothing."""
    running = serve(mount={"/mcp": mounted_app})
    for method, path in [*every_route(running), ("POST", "/mcp")]:
        answer = running.client().request(method, path, headers={"host": host})
        assert answer.status_code in (400, 421), (method, path)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:80"])
def test_own_names_are_answered_to(running: Running, host: str) -> None:
    """Loopback names on any port are fine: a tunnel's port is another one."""
    assert running.client().get("/api/runs", headers={"host": host}).status_code == 200


def test_two_host_headers_are_refused(running: Running) -> None:
    """A request with two Host headers could be read differently by two programs."""
    answer = raw(running, b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 421"))


def raw(running: Running, request: bytes) -> bytes:
    address = running.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(65536)


ORIGINS = [
    "https://evil.example",
    "null",
    "http://127.0.0.1:1",
    "http://localhost.evil.example",
    "file://",
    "",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_other_sites_change_nothing(running: Running, origin: str) -> None:
    """No state-changing route works for a page of another origin, not even with a stolen session and CSRF token."""
    person = running.person()
    for method, path in every_route(running):
        if method != "POST":
            continue
        headers = {"origin": origin, "x-csrf-token": person.csrf}
        answer = person.client.post(path, json={"flow": "echo"}, headers=headers)
        assert answer.status_code == 403, path
    assert running.client().get("/api/runs").json()["runs"] == []


def test_a_browser_without_the_csrf_token_changes_nothing(running: Running) -> None:
    """A form of our own origin without the session's token is refused, and so is one with another session's token."""
    person, other = running.person(), running.person()
    for method, path in every_route(running):
        if method != "POST" or path == "/login":
            continue
        for csrf in ("", other.csrf, person.csrf[:-1], "ü"):
            answer = person.client.post(
                path,
                data={"csrf": csrf, "flow": "echo"},
                headers={"origin": running.url, "accept": "text/html"},
            )
            assert answer.status_code == 403, (path, csrf)
    assert running.client().get("/api/runs").json()["runs"] == []


def test_sibling_sites_are_other_sites(running: Running) -> None:
    """Where a browser says that a request comes from elsewhere, the absence of an Origin helps nobody."""
    for site in ("cross-site", "same-site", "none"):
        headers = {"sec-fetch-site": site, "content-type": "application/json"}
        assert (
            running.client().post("/api/runs", content=b'{"flow": "echo"}', headers=headers).status_code
            == 403
        )


def test_mounted_apps_hear_nothing_from_other_sites(serve: Serve) -> None:
    """Other machines' origins are kept from a mounted app; those of this machine are its own business."""
    running = serve(mount={"/mcp": mounted_app})
    client = running.client()
    assert client.post("/mcp", headers={"origin": "https://evil.example"}).status_code == 403
    assert client.post("/mcp", headers={"origin": "http://localhost:6274"}).status_code == 200
    assert client.post("/mcpx").status_code in (403, 404)


def test_nobody_but_a_person_decides(serve: Serve) -> None:
    """Programs, bearers of the token and GET requests decide nothing; the effect has not happened."""
    running = serve(token=TOKEN)
    wait = running.asked(start_with_token(running, "post"))
    bearer = running.client(authorization=f"Bearer {TOKEN}")
    path = f"/api/approvals/{wait.id}"
    assert bearer.post(f"{path}/decide", json={"verdict": "approved"}).status_code == 403
    form = {"verdict": "approve", "digest": wait.digest}
    assert bearer.post(f"/approvals/{wait.id}", data=form).status_code == 403
    assert bearer.get(f"{path}/decide", params={"verdict": "approved"}).status_code == 405
    assert bearer.get(f"/approvals/{wait.id}", params=form).status_code == 200
    assert bearer.head(f"/approvals/{wait.id}", params=form).status_code == 200
    still = running.journal.get_wait(wait.id)
    assert still is not None
    assert still.is_open
    assert flows_under_test.sent == []


def test_a_local_program_decides_nothing_without_a_token(running: Running) -> None:
    """Without a token, a program may start runs, but not sign for them."""
    wait = running.asked(running.start("post"))
    answer = running.client().post(f"/api/approvals/{wait.id}/decide", json={"verdict": "approved"})
    assert answer.status_code == 403
    still = running.journal.get_wait(wait.id)
    assert still is not None
    assert still.is_open


def test_forged_sessions_are_no_sessions() -> None:
    """A session of another installation, another token, an altered or an elapsed one is not accepted."""
    access = Access(b"key", token=TOKEN, allowed_hosts=[])
    sealed = access.seal(access.new_session("Ann"))
    opened = access.open(sealed)
    assert opened is not None
    assert opened.actor == "Ann"
    assert Access(b"other key", token=TOKEN, allowed_hosts=[]).open(sealed) is None
    assert Access(b"key", token="other", allowed_hosts=[]).open(sealed) is None
    nonce, expires, actor, seal = sealed.split(".")
    for forged in (
        f"{nonce}.{int(expires) + 1}.{actor}.{seal}",
        f"{nonce}.{expires}..{seal}",
        "",
        "...",
        sealed + "x",
        "ü.1..x",
    ):
        assert access.open(forged) is None
    session = access.new_session()
    assert access.open(access.seal(type(session)(session.nonce, 5, ""))) is None


def test_every_answer_carries_the_security_headers(running: Running) -> None:
    """Pages, JSON, static files, errors and refusals: none may be framed, sniffed or given foreign scripts."""
    client = running.client(accept="text/html")
    for method, path in [*every_route(running), ("GET", "/nothing"), ("GET", "/runs/..")]:
        with client.stream(method, path) as answer:  # one of them has no end
            pass
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers.get(name) == value, (method, path, name)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    assert client.get("/nothing", headers={"host": "evil.example"}).headers["x-frame-options"] == "DENY"


def test_pages_hold_no_inline_script_or_style(running: Running) -> None:
    """Nothing that a run wrote becomes markup, and no page needs an exception to its own policy."""
    run_id = running.start("broken")
    assert running.ended(run_id) == "FAILED"
    wait = running.asked(running.start("post", text="</textarea><script>alert(1)</script>"))
    person = running.person()
    for path in (
        "/",
        f"/runs/{run_id}",
        "/approvals",
        f"/approvals/{wait.id}",
        "/flows",
        "/flows/post",
        "/connect",
    ):
        page = person.open(path)
        assert page.status_code == 200, path
        assert "<script>alert" not in page.text
        assert not re.search(r"\sstyle=|\son[a-z]+=|<style|javascript:|https?://(?!127)", page.text), path
        assert re.findall(r"<script(?![^>]* src=)[^>]*>", page.text) == []


def test_a_crash_of_the_server_shows_no_traceback(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect becomes a 500 that says nothing of the inside, with the security headers."""

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("the inside")

    monkeypatch.setattr(running.journal, "list_runs", broken)
    answer = running.client().get("/api/runs")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "InternalError"
    assert "inside" not in answer.text
    assert "Zero" not in answer.text
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/static/"],
)
def test_static_files_end_at_their_folder(running: Running, path: str) -> None:
    """No path leads out of the folder of static files, nor lists it."""
    answer = raw(running, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ")[1] in (b"404", b"405")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])  # noqa: S104 - to be refused
def test_other_machines_are_let_in_with_a_token_only(running: Running, host: str) -> None:
    """Listening beyond loopback without a token, or with a guessable one, is refused with the way out."""
    with pytest.raises(UsageError, match="--token"):
        Server(running.worker, host=host, port=0)
    with pytest.raises(UsageError, match="too short"):
        Server(running.worker, host=host, port=0, token="secret")


def test_with_a_token_any_address_but_no_other_name_is_answered_to(serve: Serve) -> None:
    """Bound to all addresses, an address cannot be rebound but a name can."""
    running = serve(token=TOKEN, host="0.0.0.0")  # noqa: S104 - what is tested
    client = running.client(authorization=f"Bearer {TOKEN}")
    assert client.get("/api/runs", headers={"host": "192.0.2.7:4300"}).status_code == 200
    assert client.get("/api/runs", headers={"host": "evil.example"}).status_code == 421


def test_a_taken_port_is_said_in_one_line(running: Running) -> None:
    """A port that another program has is a usage error, not a traceback."""
    port = int(running.url.rpartition(":")[2])
    with pytest.raises(UsageError, match="choose another --port") as caught:
        Server(running.worker, port=port)
    assert "\n" not in str(caught.value)


def test_no_module_of_the_server_evaluates_what_it_is_sent() -> None:
    """The server never unpickles, imports or evaluates: the words do not even occur."""
    folder = Path(__file__).parents[2] / "agentflow" / "server"
    for path in folder.rglob("*.py"):
        words = re.findall(
            r"\b(pickle|eval|exec|importlib|__import__|marshal|subprocess|Codec\([^)]*\)\.decode)\b",
            path.read_text(),
        )
        assert words == [], path


def test_the_worker_is_stopped_with_the_server(serve: Serve) -> None:
    """Leaving the server drains it: streams end, and a run that waits stays resumable."""
    running = serve()
    run_id = running.start("survey")
    wait = running.asked(run_id)
    with running.client().stream("GET", f"/api/events/stream?run={run_id}") as answer:
        lines = answer.iter_lines()
        next(lines)
        running.server.__exit__(None, None, None)
        assert isinstance(list(lines), list)
    run = running.journal.get_run(run_id)
    assert run is not None
    assert not run.state.is_final
    assert running.journal.get_wait(wait.id) is not None
    again = InlineWorker(running.journal, flows_under_test.FLOWS)
    assert again.flow("survey").name == "survey"
    again.stop()
