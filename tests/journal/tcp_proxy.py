"""A TCP proxy that cuts or holds what goes through it: before a request has arrived, or before its answer came back."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

_PIECE = 65536


class TcpProxy:
    """Listens on a port of its own; a context manager."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        #: What becomes of the next request that has `word` in it: "before", "after" (its answer is lost), or nothing.
        self._fault, self._word = "", b""
        self.fired = 0
        #: A request waits here, until it is let go.
        self.held, self.let_go = threading.Event(), threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.let_go.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts
        self._listening.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def through(self, url: str) -> str:
        """The same address by way of the proxy."""
        return urlsplit(url)._replace(netloc=f"127.0.0.1:{self.port}").geturl()

    def arm(self, fault: str, word: str = "") -> None:
        """Have the next request with that word in its first piece cut, or "hold" it; an empty fault cuts nothing."""
        self.held.clear()
        self.let_go.clear()
        with self._lock:
            self._fault, self._word = fault, word.encode()

    def _take(self, piece: bytes) -> str:
        with self._lock:
            if not self._fault or self._word not in piece:
                return ""
            fault, self._fault = self._fault, ""
            self.fired += 1
            return fault

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        for connection in (client, server):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open |= {client, server}
        deaf = threading.Event()
        threading.Thread(target=self._answers, args=(server, client, deaf), daemon=True).start()
        with suppress(OSError):
            while piece := client.recv(_PIECE):
                fault = self._take(piece)
                if fault == "before":
                    break
                if fault == "after":
                    deaf.set()
                if fault == "hold":
                    self.held.set()
                    self.let_go.wait()
                server.sendall(piece)
        self._hang_up(client if not deaf.is_set() else server, server)

    def _answers(self, server: socket.socket, client: socket.socket, deaf: threading.Event) -> None:
        with suppress(OSError):
            while piece := server.recv(_PIECE):
                if deaf.is_set():
                    break
                client.sendall(piece)
        self._hang_up(client, server)

    def _hang_up(self, *connections: socket.socket) -> None:
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
            with self._lock:
                self._open.discard(connection)
