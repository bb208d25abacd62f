"""The scripted model server: plays a script over real HTTP on loopback, and remembers every model request.

It stands on the standard library's threads and sockets alone, because it must be able to close a connection before the
first byte, and in the middle of an event.
"""

from __future__ import annotations

import collections
import json
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from agentflow.errors import UsageError
from agentflow.testing import models_chat, models_messages, models_responses
from agentflow.testing.models_answers import Transmission, refusal, transmission
from agentflow.testing.models_dialect import (
    CREATED,
    Dialect,
    UnplayableReplyError,
    UnreadableRequestError,
    compact,
)
from agentflow.testing.models_script import (
    Answer,
    ApiName,
    Fault,
    JsonObject,
    ModelRequest,
    RecordedRequest,
    Reply,
    Script,
)

logger = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
REQUESTS_PATH: Final = "/_agentflow/requests"
FAULTS_PATH: Final = "/_agentflow/faults"

DIALECTS: dict[str, tuple[ApiName, Dialect]] = {
    models_chat.PATH: ("chat", models_chat),
    models_responses.PATH: ("responses", models_responses),
    models_messages.PATH: ("messages", models_messages),
}

#: Seconds that leaving the server waits for calls of the script that are still running.
_LEAVING_SECONDS = 10.0

_faults_from_json = TypeAdapter(list[Fault])
_records_to_json = TypeAdapter(dict[str, tuple[RecordedRequest, ...]])


class ScriptedModelServer:
    """An OpenAI- and Anthropic-compatible model on ``127.0.0.1`` that says what `script` says.

    ``with ScriptedModelServer(script) as server:`` - once entered, it accepts connections; when left, it has closed
    them all and its threads have ended. Any API key and any model name will do; `models` is only what
    ``GET /v1/models`` lists. Raises `OSError` on entering if `port` is taken (0 = any free one).

    - `script`: answers in order, or a function of the request; see `Script`. A script that fails, or has no answer
      left, makes a status 500 that says so and asks the client not to retry.
    - `faults`: append to it, at any time, what shall go wrong next, ahead of the script and without asking it.
    - `requests`: all model requests so far, in order of arrival, also after the server was left.

    Another process reads ``GET /_agentflow/requests`` (``{"requests": [...]}``) and queues faults by
    ``POST /_agentflow/faults`` (a JSON list, such as ``[{"kind": "status", "status_code": 429, "retry_after": 2}]``).
    """

    def __init__(self, script: Script, *, port: int = 0, models: Sequence[str] = ("scripted-model",)) -> None:
        self.faults: collections.deque[Fault] = collections.deque()
        self.models = tuple(models)
        self._play: Callable[[ModelRequest], object] = script if callable(script) else _in_order(script)
        self._port = port
        self._listener: _Listener | None = None
        self._leaving = threading.Event()
        self._records: list[RecordedRequest] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self._listener is not None:
            raise UsageError("a scripted model server is entered once; make another one")
        self._listener = _Listener((HOST, self._port), partial(_Connection, self))
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leaving.set()
        if self._listener is not None:
            self._listener.stop()

    @property
    def port(self) -> int:
        """The TCP port in use."""
        if self._listener is None:
            raise UsageError("the server has no address yet: use `with ScriptedModelServer(...) as server:`")
        return self._listener.port

    @property
    def url(self) -> str:
        """The server's root, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def openai_url(self) -> str:
        """The ``base_url`` for OpenAI's clients."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The ``base_url`` for Anthropic's clients."""
        return self.url

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """Every model request so far, in order of arrival."""
        with self._lock:
            return tuple(self._records)

    def record_arrival(self, api: ApiName, path: str, headers: Mapping[str, str], body: JsonObject) -> int:
        """Remembers a request that has just come in; returns its number."""
        with self._lock:
            number = len(self._records) + 1
            self._records.append(RecordedRequest(number, api, path, headers, body))
            return number

    def record_answer(self, number: int, answer: Answer | None, *, broken_off: bool) -> None:
        """Remembers what became of request `number`."""
        with self._lock:
            self._records[number - 1] = replace(
                self._records[number - 1], answer=answer, broken_off=broken_off
            )

    def answer(self, request: ModelRequest, client_left: Callable[[], bool]) -> Answer | None:
        """The next in line for this request, after all delays; None if nobody is there any more to hear it."""
        while isinstance(answer := self._next(request), Fault) and answer.kind == "delay":
            if self._leaving.wait(answer.delay_seconds) or client_left():
                return None
        return answer

    def _next(self, request: ModelRequest) -> Answer:
        with suppress(IndexError):
            return self.faults.popleft()
        try:
            answer = self._play(request)
        except Exception as error:
            logger.exception("the script failed on request %d", request.number)
            return _script_failed(f"{type(error).__name__}: {error}")
        if isinstance(answer, Reply | Fault):
            return answer
        return _script_failed(f"a script answers with a Reply or a Fault, not with {answer!r}")


def _in_order(answers: Sequence[Answer]) -> Callable[[ModelRequest], Answer]:
    """A script that plays each answer once."""
    remaining = collections.deque(answers)

    def play(_request: ModelRequest) -> Answer:
        try:
            return remaining.popleft()
        except IndexError:
            return _script_failed(f"all {len(answers)} answers were played")

    return play


def _script_failed(reason: str) -> Fault:
    return Fault.status(
        500, message=f"The script has no answer: {reason}", headers={"x-should-retry": "false"}
    )


class _Listener(socketserver.TCPServer):
    """Accepts connections, one thread each, and can end them all."""

    allow_reuse_address = True
    allow_reuse_port = False
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], connect: Callable[..., _Connection]) -> None:
        super().__init__(address, cast("type[_Connection]", connect))
        self._open: list[tuple[threading.Thread, socket.socket]] = []
        self._acceptor = threading.Thread(
            target=self.serve_forever, args=(0.02,), name="scripted-model", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        self._acceptor.start()

    def stop(self) -> None:
        """No new connections, no open ones, no threads; raises `UsageError` if the script does not come back."""
        self.shutdown()
        self._acceptor.join()
        self.server_close()
        for _, connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = monotonic() + _LEAVING_SECONDS
        for thread, _ in self._open:
            thread.join(max(0.0, deadline - monotonic()))
        if any(thread.is_alive() for thread, _ in self._open):
            raise UsageError(
                f"a call of the script still runs, {_LEAVING_SECONDS:g} s after its server was left"
            )

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open = [entry for entry in self._open if entry[0].is_alive()]
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="scripted-model-connection", daemon=True
        )
        self._open.append((thread, request))
        thread.start()

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            with suppress(ConnectionError):
                self.finish_request(request, client_address)
        except Exception:
            logger.exception("a connection to the scripted model failed")
        finally:
            self.shutdown_request(request)


class _Connection(BaseHTTPRequestHandler):
    """One connection of a client: reads requests and writes answers, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "agentflow-scripted-model"
    sys_version = ""

    def __init__(self, owner: ScriptedModelServer, *connection: Any) -> None:
        self._owner = owner
        super().__init__(*connection)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        logger.debug(format, *args)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == REQUESTS_PATH:
            self._send_json(200, _records_to_json.dump_json({"requests": self._owner.requests}))
        elif path == "/v1/models":
            self._send_json(
                200, _model_list(self._owner.models, anthropic="anthropic-version" in self.headers)
            )
        else:
            self._send_unknown(path)

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        content = self._content()
        if content is None:
            self.close_connection = True
            self._send_json(411, b'{"error":{"message":"a request needs a Content-Length"}}')
        elif path == FAULTS_PATH:
            self._queue_faults(content)
        elif path in DIALECTS:
            self._converse(*DIALECTS[path], content)
        else:
            self._send_unknown(path)

    def _content(self) -> bytes | None:
        """What the request carries; None if it does not say how much. Half a request is none: `ConnectionError`."""
        length = self.headers.get("content-length", "")
        if not length.isdecimal():
            return None
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            raise ConnectionAbortedError
        return content

    def _queue_faults(self, content: bytes) -> None:
        try:
            faults = _faults_from_json.validate_json(content)
        except (ValidationError, UsageError) as error:
            self._send_json(400, compact({"error": {"message": str(error)}}).encode())
        else:
            self._owner.faults.extend(faults)
            self._send_json(200, compact({"queued": len(self._owner.faults)}).encode())

    def _converse(self, api: ApiName, dialect: Dialect, content: bytes) -> None:
        body = _json_object(content)
        number = self._owner.record_arrival(api, self.path, _harmless(self.headers.items()), body or {})
        answer: Answer | None = None
        sent: Transmission | None = None
        try:
            if body is None:
                raise UnreadableRequestError("the content is no JSON object")
            request = dialect.read(number, body)
            answer = self._owner.answer(request, self._client_left)
            sent = transmission(dialect, request, answer) if answer else None
        except UnreadableRequestError as error:
            answer = Fault.status(400, message=f"Unreadable request: {error}")
            sent = refusal(dialect, number, answer)
        except (UnplayableReplyError, AttributeError, TypeError) as error:
            answer = _script_failed(f"its reply cannot be sent: {error}")
            sent = refusal(dialect, number, answer)
        broken_off = sent is None or not sent.complete
        self.close_connection = self.close_connection or broken_off
        self._owner.record_answer(number, answer, broken_off=broken_off)
        if sent is not None:
            try:
                self._transmit(sent, number)
            except ConnectionError:
                self._owner.record_answer(number, answer, broken_off=True)
                raise

    def _client_left(self) -> bool:
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _transmit(self, sent: Transmission, number: int) -> None:
        """Writes the answer. Raises `ConnectionError` if the client has hung up."""
        self.send_response(sent.status)
        for name, value in sent.headers.items():
            self.send_header(name, value)
        for name in ("request-id", "x-request-id"):
            self.send_header(name, f"req_{number}")
        if sent.length is None:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(sent.length))
        self.end_headers()
        for portion in sent.portions:
            self.wfile.write(
                portion if sent.length is not None else b"%x\r\n%b\r\n" % (len(portion), portion)
            )
        if sent.complete and sent.length is None:
            self.wfile.write(b"0\r\n\r\n")

    def _send_json(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_unknown(self, path: str) -> None:
        known = ", ".join([*DIALECTS, "/v1/models", REQUESTS_PATH, FAULTS_PATH])
        message = f"nothing answers {self.command} {path}; the scripted model knows {known}"
        self._send_json(404, compact({"error": {"message": message, "type": "not_found_error"}}).encode())


def _json_object(content: bytes) -> JsonObject | None:
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return cast("JsonObject", value) if isinstance(value, dict) else None


#: A header whose name contains one of these may hold a secret.
_SECRETIVE = ("auth", "key", "token", "secret", "cookie")


def _harmless(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The headers by lower-case name, what may be secret redacted; the idempotency key is not secret."""
    kept: dict[str, str] = {}
    for given, value in headers:
        name = given.lower()
        secret = name != "idempotency-key" and any(word in name for word in _SECRETIVE)
        kept[name] = "[redacted]" if secret else value
    return kept


def _model_list(models: Sequence[str], *, anthropic: bool) -> bytes:
    """The list of models in the form of the provider whose client asks."""
    if not anthropic:
        listed = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "agentflow"} for name in models
        ]
        return compact({"object": "list", "data": listed}).encode()
    day = "2026-01-01T00:00:00Z"
    named = [{"type": "model", "id": name, "display_name": name, "created_at": day} for name in models]
    ends = {"first_id": models[0] if models else None, "last_id": models[-1] if models else None}
    return compact({"data": named, "has_more": False, **ends}).encode()
