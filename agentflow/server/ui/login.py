"""The page that takes the token and gives a session for it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from agentflow.server.bodies import form_of
from agentflow.server.guard import cookie_header
from agentflow.server.rendering import render
from agentflow.server.site import caller_of, site_of


def show_page(request: Request) -> Response:
    """GET /login?next=."""
    if not site_of(request).access.needs_token:
        return RedirectResponse("/", 303)
    return render(
        request,
        "login.html",
        {"next": _local(request.query_params.get("next", "")), "error": "", "actor": ""},
    )


def login(request: Request) -> Response:
    """POST /login: the token, and how the person wants to be called."""
    access = site_of(request).access
    form = form_of(request)
    after = _local(form.get("next", ""))
    if not access.needs_token:
        return RedirectResponse("/", 303)
    if not access.is_token(form.get("token", "").strip()):
        context = {"next": after, "error": "This is not the token.", "actor": form.get("actor", "")}
        return render(request, "login.html", context, status=403)
    response = RedirectResponse(after, 303)
    session = access.new_session(form.get("actor", ""))
    response.headers["set-cookie"] = cookie_header(access, session, secure=request.url.scheme == "https")
    return response


def logout(request: Request) -> Response:
    """POST /logout."""
    access = site_of(request).access
    response = RedirectResponse("/login", 303)
    if caller_of(request).session is not None:
        response.delete_cookie(access.cookie, path="/", httponly=True, samesite="strict")
    return response


def _local(path: str) -> str:
    """A path of this server; anything else becomes the front page."""
    good = (
        path.startswith("/")
        and not path.startswith(("//", "/\\"))
        and path.isprintable()
        and "\\" not in path
    )
    return path if good else "/"
