"""The guard before every route: host, origin, token, session, CSRF token, body limit, security headers.

Pure ASGI, outside of routing, so that no route can be forgotten. A mounted app gets what is its own business (its
origins, its bodies) untouched; host and token are checked for it, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentflow.errors import CorruptRecord, Unwinding
from agentflow.server.access import SESSION_SECONDS, Access, Caller, CallerKind, Session
from agentflow.server.answers import crash_response, error_response, wants_page
from agentflow.server.bodies import FORM_TYPE, content_type, parse_form, read_body

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: What is shown without the token: whole paths, no prefixes but the folder of static files.
PUBLIC_PATHS = frozenset({"/health", "/login", "/favicon.ico"})
PUBLIC_FOLDER = "/static/"
CSP = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": CSP,
    "referrer-policy": "same-origin",  # "no-referrer" would have browsers send "Origin: null" with our own forms
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_logger = logging.getLogger("agentflow.server")


class Guard:
    """ASGI middleware. `mounts`: paths of mounted apps; `doors`: of those that ask for credentials of their own."""

    def __init__(
        self, app: ASGIApp, *, access: Access, mounts: Iterable[str], doors: Iterable[str] = ()
    ) -> None:
        self._app, self._access = app, access
        self._mounts, self._doors = tuple(mounts), tuple(doors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and hand it on."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        door = _is_below(scope["path"], self._doors)
        mounted = door or _is_below(scope["path"], self._mounts)
        outgoing = _Outgoing(send, own=not mounted, static=scope["path"].startswith(PUBLIC_FOLDER))
        try:
            if mounted:
                self._check_mounted(scope, door=door)
            else:
                receive = await self._check(scope, receive, outgoing)
            await self._app(scope, receive, outgoing)
        except HTTPException as refusal:
            await self._refuse(scope, refusal, mounted=mounted)(scope, receive, outgoing)
        except CorruptRecord as error:  # it was not for the server to read
            await error_response(Request(scope), 409, type(error).__name__, str(error))(
                scope, receive, outgoing
            )
        except Unwinding as error:  # the journal is out of reach
            await error_response(Request(scope), 503, "JournalUnavailable", str(error))(
                scope, receive, outgoing
            )
        except Exception:
            if outgoing.started:
                raise
            _logger.exception("%s %s failed", scope["method"], scope["path"])
            await crash_response(Request(scope))(scope, receive, outgoing)

    def _refuse(self, scope: Scope, refusal: HTTPException, *, mounted: bool) -> Response:
        request = Request(scope)
        page = not mounted and wants_page(request)
        if refusal.status_code == 401 and page and scope["method"] in ("GET", "HEAD"):  # noqa: PLR2004
            after = scope["path"] + (
                "?" + scope["query_string"].decode("latin-1") if scope["query_string"] else ""
            )
            return RedirectResponse(f"/login?next={quote(after, safe='')}", 303)
        response = error_response(request, refusal.status_code, "Refused", refusal.detail)
        for name, value in (refusal.headers or {}).items():
            response.headers[name] = value
        return response

    # -- mounted apps
    def _check_mounted(self, scope: Scope, *, door: bool) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        origin = headers.get("origin")
        if door:
            if origin is not None or "sec-fetch-site" in headers:
                raise HTTPException(403, "no browser has any business here")
            return
        if origin is not None and not (
            self._access.allows_origin(origin, headers["host"]) or self._access.is_loopback_origin(origin)
        ):
            raise HTTPException(403, "requests of other sites are refused")
        if self._access.needs_token and not self._bears_token(headers):
            raise _unauthorised()

    # -- own routes
    async def _check(self, scope: Scope, receive: Receive, outgoing: _Outgoing) -> Receive:
        headers = Headers(scope=scope)
        self._check_host(headers)
        _check_path(scope)
        session = self._session(headers)
        path: str = scope["path"]
        public = path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDER)
        bears = self._bears_token(headers)
        if self._access.needs_token and not public and not bears and session is None:
            raise _unauthorised()
        state = scope.setdefault("state", {})
        if scope["method"] in SAFE_METHODS:
            if session is None and not self._access.needs_token and wants_page(Request(scope)):
                session = self._access.new_session()
                outgoing.cookie = cookie_header(self._access, session, secure=scope["scheme"] == "https")
            state |= {"caller": Caller(CallerKind.VISITOR, session), "body": b"", "form": {}}
            return receive
        body = await read_body(receive, headers.get("content-length"))
        is_form = content_type(headers.get("content-type", "")) == FORM_TYPE
        form = parse_form(body) if is_form else {}
        given = headers.get("x-csrf-token") or form.get("csrf")
        caller = self._caller(headers, session, given, bears=bears, login=path == "/login")
        state |= {"caller": caller, "body": body, "form": form}
        return _replay(body, receive)

    def _caller(
        self, headers: Headers, session: Session | None, csrf: str | None, *, bears: bool, login: bool
    ) -> Caller:
        """Who asks for a change. Raises `HTTPException` 403."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if (origin is not None and not self._access.allows_origin(origin, headers["host"])) or site not in (
            None,
            "same-origin",
        ):
            raise HTTPException(403, "requests of other sites are refused")
        from_here = origin is not None or site is not None
        if session is not None and csrf is not None and from_here:
            if not self._access.is_csrf(session, csrf):
                raise HTTPException(403, "this page is from another session; reload it and try again")
            return Caller(CallerKind.PERSON, session)
        if bears:
            return Caller(CallerKind.CREDENTIAL)
        if login and from_here:
            return Caller(CallerKind.VISITOR)
        if not self._access.needs_token and not from_here:
            return Caller(CallerKind.LOCAL)
        raise HTTPException(403, "this page is from another session, or too old; reload it and try again")

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._access.allows_host(hosts[0]):
            raise HTTPException(421, "this server does not answer to that name; --allowed-host NAME adds one")

    def _bears_token(self, headers: Headers) -> bool:
        kind, _, text = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self._access.is_token(text.strip())

    def _session(self, headers: Headers) -> Session | None:
        value = cookie_parser(headers.get("cookie", "")).get(self._access.cookie)
        return None if value is None else self._access.open(value)


def cookie_header(access: Access, session: Session, *, secure: bool) -> str:
    """The Set-Cookie header of a session."""
    tail = "; Secure" if secure else ""
    return f"{access.cookie}={access.seal(session)}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict{tail}"


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def _unauthorised() -> HTTPException:
    return HTTPException(401, "give the token: Authorization: Bearer ...", {"www-authenticate": "Bearer"})


def _check_path(scope: Scope) -> None:
    """Refuse paths that other software might read differently than the router does."""
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or path.encode()
    odd = "\\" in path or "//" in path or any(part in (".", "..") for part in path.split("/"))
    if odd or any(ord(letter) < 32 or ord(letter) == 127 for letter in path) or b"%2f" in raw.lower():  # noqa: PLR2004
        raise HTTPException(404, "there is nothing here")


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class _Outgoing:
    """The way out: adds the security headers and a new session's cookie."""

    def __init__(self, send: Send, *, own: bool, static: bool) -> None:
        self._send, self._own = send, own
        self._cache = "no-cache" if static else "no-store"
        self.cookie = ""
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers.setdefault("x-content-type-options", "nosniff")
            if self._own:
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", self._cache)
            if self.cookie:
                headers.append("set-cookie", self.cookie)
        await self._send(message)
