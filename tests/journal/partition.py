"""A network between a client and a server on this machine that swallows, delays and cuts: a proxy for TCP."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_SIZE = 65536


@dataclass
class Way:
    """One direction."""

    #: Nothing gets through; what is sent waits, as TCP would send it again.
    black: bool = False
    #: Seconds that everything is late.
    delay: float = 0.0
    #: Bytes on their way, and when they arrive.
    late: list[tuple[float, socket.socket, bytes]] = field(
        default_factory=list[tuple[float, socket.socket, bytes]]
    )


class Network:
    """Listens on `port`, and passes on to a port of this machine what its ways let through."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.there, self.back = Way(), Way()
        #: Cut a connection when the server has answered what holds this, instead of passing the answer on.
        self.cut_after = b""
        #: How many connections were cut so.
        self.cuts = 0
        self._ways: dict[socket.socket, tuple[socket.socket, Way]] = {}
        self._doomed: set[socket.socket] = set()
        self._over = False
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    def url(self, url: str, port: int) -> str:
        """The address of a server behind it."""
        return url.replace(f":{port}/", f":{self.port}/")

    def part(self) -> None:
        """Let nothing through, in either direction."""
        self.there.black = self.back.black = True

    def heal(self) -> None:
        """Let everything through."""
        self.there.black = self.back.black = False

    def close(self) -> None:
        self._over = True
        self._thread.join()
        for end in (self._listener, *self._ways):
            end.close()

    def _work(self) -> None:
        while not self._over:
            open_ends = [end for end, (_, way) in self._ways.items() if not way.black]
            readers = open_ends if self.there.black else [*open_ends, self._listener]
            ready, _, _ = select.select(readers, [], [], 0.005)
            for end in ready:
                if end is self._listener:
                    if not self.there.black:
                        self._accept()
                elif end in self._ways and not self._ways[end][1].black:  # it may be so since the look
                    self._pass_on(end)
            self._deliver(self.there)
            self._deliver(self.back)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        self._ways[client], self._ways[server] = (server, self.there), (client, self.back)

    def _pass_on(self, end: socket.socket) -> None:
        other, way = self._ways[end]
        try:
            data = end.recv(_SIZE)
        except OSError:
            data = b""
        if not data:
            self._hang_up(end)
        elif way is self.there and self.cut_after and self.cut_after in data:
            self.cut_after = b""
            self._doomed.add(other)
            self._send(other, data)
        elif end in self._doomed:  # the server has done it, and nobody hears of that
            self.cuts += 1
            self._hang_up(end)
        elif way.delay:
            way.late.append((time.monotonic() + way.delay, other, data))
        else:
            self._send(other, data)

    def _deliver(self, way: Way) -> None:
        while way.late and way.late[0][0] <= time.monotonic() and not way.black:
            _, end, data = way.late.pop(0)
            self._send(end, data)

    def _send(self, end: socket.socket, data: bytes) -> None:
        with suppress(OSError):
            end.sendall(data)

    def _hang_up(self, end: socket.socket) -> None:
        other, _ = self._ways.pop(end)
        self._ways.pop(other, None)
        for one in (end, other):
            self._doomed.discard(one)
            one.close()


@contextmanager
def network_to(port: int) -> Generator[Network, None, None]:
    """A network for the block."""
    made = Network(port)
    try:
        yield made
    finally:
        made.close()
