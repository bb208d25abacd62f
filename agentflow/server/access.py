"""Who is calling: host names, the token, sessions of people and their CSRF tokens. No HTTP here, only the checks.

A session is a signed cookie; the server keeps no list of them. Its key comes from the installation's key and the token,
so sessions outlive a restart and end when the token changes.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - names to compare with
SESSION_SECONDS = 14 * 86_400
_ACTOR_LIMIT = 80


class CallerKind(StrEnum):
    """By what right a request is made."""

    VISITOR = "visitor"
    """Nothing is proven; may read where no token is set."""
    LOCAL = "local"
    """A program on this machine, where no token is set; who is behind it is unknown."""
    CREDENTIAL = "credential"
    """Whoever holds the token: a program, so who is behind it is unknown."""
    PERSON = "person"
    """A person's browser: session, CSRF token and Origin are all right."""


@dataclass(frozen=True, slots=True)
class Session:
    """A person's browser."""

    nonce: str
    expires: int
    #: What the person calls themselves; not proven.
    actor: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    kind: CallerKind
    session: Session | None = None

    @property
    def is_person(self) -> bool:
        """Whether a person's decision may come this way."""
        return self.kind is CallerKind.PERSON


class Access:
    """What a request has to show. `token` None: whoever reaches the (loopback) socket may read and start runs."""

    def __init__(self, key: bytes, *, token: str | None, allowed_hosts: Sequence[str]) -> None:
        digest = hashlib.sha256((token or "").encode()).digest()
        self._secret = hmac.new(key, b"agentflow web session" + digest, hashlib.sha256).digest()
        self._token = digest if token else None
        self._hosts = frozenset(_host_name(host) for host in allowed_hosts)
        #: Cookies know no ports, so that each installation needs a name of its own.
        self.cookie = f"agentflow-{hashlib.sha256(self._secret).hexdigest()[:8]}"

    @property
    def needs_token(self) -> bool:
        """Whether nothing is shown without the token."""
        return self._token is not None

    def is_token(self, text: str) -> bool:
        """Whether `text` is the token; takes as long for any text."""
        given = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        return self._token is not None and hmac.compare_digest(given, self._token)

    # -- hosts
    def allows_host(self, header: str) -> bool:
        """Whether a Host header names this server; any other name is another site's (DNS rebinding)."""
        name = _host_name(header)
        if not name:
            return False
        return name in self._hosts or (bool(self._hosts & WILDCARDS) and _is_address(name))

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether an Origin header names this server, as the Host header does."""
        scheme, separator, rest = origin.partition("://")
        if not separator or scheme not in ("http", "https"):
            return False
        default = ":443" if scheme == "https" else ":80"
        return rest.lower().removesuffix(default) == host.lower().removesuffix(default)

    def is_loopback_origin(self, origin: str) -> bool:
        """Whether an Origin header names some server on this machine."""
        scheme, separator, rest = origin.partition("://")
        return bool(separator) and scheme in ("http", "https") and _host_name(rest) in LOOPBACK_NAMES

    # -- sessions
    def new_session(self, actor: str = "") -> Session:
        """A session that begins now."""
        return Session(
            secrets.token_urlsafe(18), int(time.time()) + SESSION_SECONDS, actor.strip()[:_ACTOR_LIMIT]
        )

    def seal(self, session: Session) -> str:
        """The session as the value of a cookie."""
        actor = urlsafe_b64encode(session.actor.encode("utf-8", "replace")).decode().rstrip("=")
        text = f"{session.nonce}.{session.expires}.{actor}"
        return f"{text}.{self._sign('session', text)}"

    def open(self, cookie: str) -> Session | None:
        """The session of a cookie's value; None where it is forged or over."""
        text, _, seal = cookie.rpartition(".")
        if not hmac.compare_digest(self._sign("session", text).encode(), seal.encode("utf-8", "replace")):
            return None
        nonce, expires, actor = text.split(".")
        if int(expires) <= time.time():
            return None
        return Session(nonce, int(expires), urlsafe_b64decode(actor + "=" * (-len(actor) % 4)).decode())

    def csrf(self, session: Session) -> str:
        """What every form of the session carries: no other site can know it."""
        return self._sign("csrf", session.nonce)

    def is_csrf(self, session: Session, text: str) -> bool:
        """Whether `text` is the session's CSRF token."""
        return hmac.compare_digest(self.csrf(session).encode(), text.encode("utf-8", "replace"))

    def _sign(self, purpose: str, text: str) -> str:
        data = f"{purpose}\0{text}".encode("utf-8", "replace")
        return urlsafe_b64encode(hmac.new(self._secret, data, hashlib.sha256).digest()).decode().rstrip("=")


def _host_name(header: str) -> str:
    """The lower-case name or address in ``name``, ``name:port``, ``[address]:port``; "" for anything else."""
    text = header.strip().lower()
    if text.startswith("["):
        name, separator, rest = text[1:].partition("]")
        good = bool(separator) and (not rest or rest.startswith(":")) and _is_address(name)
    elif text.count(":") > 1:
        name, rest, good = text, "", _is_address(text)
    else:
        name, _, rest = text.partition(":")
        rest = ":" + rest if rest else ""
        good = all(letter.isalnum() or letter in "-._" for letter in name)
    if not good or (rest and not (rest[1:].isascii() and rest[1:].isdigit())):
        return ""
    return name.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
