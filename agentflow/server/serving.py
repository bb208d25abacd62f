"""Serving the app with uvicorn, in the foreground or in a thread. Stopping drains; runs stay resumable."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, MappingProxyType, TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from agentflow.errors import UsageError
from agentflow.server.access import LOOPBACK_NAMES, WILDCARDS
from agentflow.server.app import create_app
from agentflow.workers.ending import ending_when_told
from agentflow.workers.inline import Worker

Mounts = Mapping[str, ASGIApp] | Callable[[str], Mapping[str, ASGIApp]]
"""ASGI apps by path, or a function from the server's URL to them."""

_NO_MOUNTS: Mapping[str, ASGIApp] = MappingProxyType({})
_DRAIN_SECONDS = 3
_START_SECONDS = 30.0
_SHORTEST_TOKEN = 16
_BACKLOG = 256


class Server:
    """The server of a worker, for use in a thread: a context manager whose ``url`` is where it listens."""

    def __init__(
        self,
        worker: Worker,
        *,
        host: str = "127.0.0.1",
        port: int = 4300,
        mount: Mounts = _NO_MOUNTS,
        allowed_hosts: Sequence[str] = (),
        token: str | None = None,
        on_ready: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take the port. Port 0 takes any free one; `allowed_hosts` adds names to those of `host`.

        Raises `UsageError` for a taken port, and for a host that others can reach without a token.
        """
        check_exposure(host, token)
        self.worker = worker
        self._socket = listen(host, port)
        bound: int = self._socket.getsockname()[1]
        #: Where a browser finds it.
        self.url = f"http://{_shown(host)}:{bound}"
        apps = mount(self.url) if callable(mount) else mount
        app = create_app(
            worker, mount=apps, allowed_hosts=names_of(host, allowed_hosts), token=token or None, url=self.url
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
            backlog=_BACKLOG,
        )
        self._uvicorn = _Uvicorn(config, lambda: on_ready(self.url), self._leave)
        self._end_streams = app.state.site.hub.close
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.worker.start()
        thread = self._thread = threading.Thread(target=self._serve, name="agentflow-server", daemon=True)
        thread.start()
        if not self._uvicorn.is_ready.wait(_START_SECONDS) or not self._uvicorn.started:
            self.__exit__(None, None, None)
            message = f"the server at {self.url} did not start; its log says why"
            raise UsageError(message)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._uvicorn.should_exit = True
        if self._thread is not None:
            self._thread.join(_DRAIN_SECONDS * 3)
        self.worker.stop()
        self._socket.close()

    def run(self) -> None:
        """Serve in this thread until SIGINT or SIGTERM; a second one does not wait for steps to end."""
        with ending_when_told(self.worker, self._end):
            self.worker.start()
            try:
                self._uvicorn.run(sockets=[self._socket])
            finally:
                if self._uvicorn.force_exit:
                    self.worker.hurry()
                self.worker.stop()
                self._socket.close()

    def _end(self) -> None:
        """Of a signal that uvicorn does not get: it has not begun to serve, or has stopped."""
        if self._uvicorn.should_exit:
            self.worker.hurry()
        self._uvicorn.should_exit = True

    def _leave(self) -> None:
        self.worker.drain()
        self._end_streams()

    def _serve(self) -> None:
        try:
            self._uvicorn.run(sockets=[self._socket])
        finally:
            self._uvicorn.is_ready.set()


class _Uvicorn(uvicorn.Server):
    """Tells when it is ready, and ends the event streams before it waits for open requests."""

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], end_streams: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_ready, self._end_streams = on_ready, end_streams
        self.is_ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.is_ready.set()
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_streams()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; unlike the original, the signal is not raised again afterwards: stopping was asked for and done."""
        if self.should_exit:
            self.force_exit = True  # somebody insists, by whichever signal
        super().handle_exit(sig, frame)
        self._captured_signals.clear()


def serve(
    worker: Worker,
    *,
    host: str = "127.0.0.1",
    port: int = 4300,
    mount: Mounts = _NO_MOUNTS,
    allowed_hosts: Sequence[str] = (),
    token: str | None = None,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGINT or SIGTERM; starts and stops the worker. `on_ready` gets the real URL.

    Raises `UsageError` for a taken port, and for a host that others can reach without a token.
    """
    Server(
        worker, host=host, port=port, mount=mount, allowed_hosts=allowed_hosts, token=token, on_ready=on_ready
    ).run()


def check_exposure(host: str, token: str | None) -> None:
    """Refuse to be reached by other machines without a token worth the name. Raises `UsageError`."""
    if is_loopback(host):
        return
    if not token:
        message = f"--host {host} lets other machines in; give --token SECRET as well, or listen on 127.0.0.1"
        raise UsageError(message)
    if len(token) < _SHORTEST_TOKEN:
        message = f"--token is too short for --host {host}; give at least {_SHORTEST_TOKEN} random characters"
        raise UsageError(message)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def names_of(host: str, more: Sequence[str]) -> list[str]:
    """The names that the server answers to."""
    names = [*LOOPBACK_NAMES, host, *more]
    if not is_loopback(host):
        names.append(socket.gethostname())
    return names


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `UsageError` where the port is taken or none, or the host is not ours."""
    if not 0 <= port < 1 << 16:
        message = f"there is no port {port}; choose one up to 65535 (0 = any free one)"
        raise UsageError(message)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        message = f"cannot listen on {host}:{port}: {error}"
        raise UsageError(message) from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        message = f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port (0 = any free one)"
        raise UsageError(message) from None
    return made


def _shown(host: str) -> str:
    if host in WILDCARDS:
        return "127.0.0.1"
    return f"[{host.strip('[]')}]" if ":" in host else host
