"""The scripted model server itself: its life, its log of requests, what it refuses, and its own process."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from agentflow.errors import UsageError
from agentflow.testing.models import (
    Answer,
    Fault,
    ModelRequest,
    Reply,
    ScriptedModelServer,
    ToolCall,
    load_script,
)

MODEL: Any = "any-model"
TEXT = Reply("Two are under way.")
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello?"}]}


def test_models_are_listed_for_both_providers() -> None:
    """`GET /v1/models` answers in the form of the provider whose client asks."""
    with (
        ScriptedModelServer([], models=["small", "large"]) as server,
        openai.OpenAI(base_url=server.openai_url, api_key="secret") as gpt,
        anthropic.Anthropic(base_url=server.anthropic_url, api_key="secret") as claude,
    ):
        assert [model.id for model in gpt.models.list()] == ["small", "large"]
        assert [model.display_name for model in claude.models.list()] == ["small", "large"]
    assert server.requests == ()


def test_requests_overlap_and_are_numbered_once() -> None:
    """Requests in flight together are all served; each has its own number and its own ids."""
    together = threading.Barrier(8, timeout=30)

    def script(request: ModelRequest) -> Answer:
        together.wait()
        return Reply(request.prompt)

    ids: dict[str, str] = {}

    def ask(prompt: str) -> None:
        with anthropic.Anthropic(base_url=server.anthropic_url, api_key="secret", max_retries=0) as client:
            answer = client.messages.create(
                model=MODEL, max_tokens=9, messages=[{"role": "user", "content": prompt}]
            )
        assert answer.content[0].model_dump()["text"] == prompt
        ids[prompt] = answer.id

    with ScriptedModelServer(script) as server:
        threads = [threading.Thread(target=ask, args=(f"prompt {i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(ids.values()) == [f"msg_{number}" for number in range(1, 9)]
    assert {record.number: record.body["messages"][0]["content"] for record in server.requests} == {
        int(given.removeprefix("msg_")): prompt for prompt, given in ids.items()
    }


def test_leaving_ends_everything_at_once() -> None:
    """When the block is left, idle connections are closed, no thread is left and the port is free again."""
    before = set(threading.enumerate())  # threads of other tests may end meanwhile
    with httpx2.Client() as client:
        with ScriptedModelServer([TEXT]) as server:
            assert client.post(f"{server.openai_url}/chat/completions", json=CHAT).status_code == 200
            assert set(threading.enumerate()) - before
            port = server.port
        assert set(threading.enumerate()) <= before
        with pytest.raises(httpx2.TransportError):
            client.get(f"{server.url}/v1/models")
        with ScriptedModelServer([TEXT], port=port) as again:
            assert again.port == port
            assert client.get(f"{again.url}/v1/models").status_code == 200


def test_a_server_has_no_address_before_it_is_entered() -> None:
    """Asking for the address too early, or entering twice, says what to do instead."""
    server = ScriptedModelServer([TEXT])
    with pytest.raises(UsageError, match="with ScriptedModelServer"):
        _ = server.url
    with server, pytest.raises(UsageError, match="make another"):
        server.__enter__()


def test_every_model_request_is_remembered_without_secrets() -> None:
    """The log holds path, headers, body and answer of each model request; keys are redacted, idempotency keys kept."""
    with (
        ScriptedModelServer([TEXT, TEXT]) as server,
        openai.OpenAI(base_url=server.openai_url, api_key="top secret") as gpt,
        anthropic.Anthropic(base_url=server.anthropic_url, api_key="top secret") as claude,
    ):
        gpt.chat.completions.create(**CHAT, extra_headers={"Idempotency-Key": "run-1/step-2"})
        claude.messages.create(max_tokens=9, **CHAT, extra_headers={"X-Api-Key": "top secret"})
    first, second = server.requests
    assert (first.number, first.api, first.path) == (1, "chat", "/v1/chat/completions")
    assert first.headers["idempotency-key"] == "run-1/step-2"
    assert first.headers["authorization"] == "[redacted]"
    assert first.body == CHAT
    assert first.answer == TEXT
    assert (second.number, second.api, second.path) == (2, "messages", "/v1/messages")
    assert second.headers["x-api-key"] == second.headers["authorization"] == "[redacted]"
    assert second.headers["anthropic-version"]
    assert "top secret" not in repr(server.requests)


def test_the_log_can_be_read_over_http() -> None:
    """Another process reads the same log, answers and faults included."""
    reply = Reply("Looking.", [ToolCall("find", {"order_id": "A-1"})])
    with (
        ScriptedModelServer([reply, Fault.status(429, retry_after=1.5)]) as server,
        httpx2.Client() as client,
    ):
        for _ in range(2):
            client.post(f"{server.openai_url}/chat/completions", json=CHAT)
        first, second = client.get(f"{server.url}/_agentflow/requests").json()["requests"]
    assert first["body"] == CHAT
    assert first["answer"]["text"] == "Looking."
    assert first["answer"]["tool_calls"] == [{"name": "find", "arguments": {"order_id": "A-1"}, "id": ""}]
    assert (second["number"], second["answer"]["status_code"]) == (2, 429)
    assert len(server.requests) == 2


CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
ASSISTANT = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "A-1"}
TOOL_USE: dict[str, Any] = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "toolu_1", "name": "find", "input": {}}],
}


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("chat/completions", b"{", "no JSON object"),
        ("chat/completions", b"[]", "no JSON object"),
        ("chat/completions", {"messages": []}, "model"),
        ("chat/completions", {"model": "m"}, "messages"),
        ("chat/completions", {"model": "m", "messages": ["hello"]}, "list of objects"),
        ("chat/completions", {"model": "m", "messages": [{"role": "bard", "content": "hello"}]}, "'bard'"),
        ("chat/completions", {"model": "m", "messages": [RESULT]}, "'call_1' answers no earlier call"),
        ("chat/completions", {"model": "m", "messages": [ASSISTANT]}, "no tool result for call_1"),
        ("chat/completions", {"model": "m", "messages": [ASSISTANT, RESULT, RESULT]}, "second time"),
        ("responses", {"model": "m"}, "input"),
        ("responses", {"model": "m", "input": [{"type": "function_call_output", "output": ""}]}, "call_id"),
        ("responses", {"model": "m", "input": [{"role": "bard", "content": "hello"}]}, "'bard'"),
        ("messages", {"model": "m", "messages": []}, "max_tokens"),
        ("messages", {"model": "m", "max_tokens": 1, "messages": [{"role": "bard"}]}, "'bard'"),
        ("messages", {"model": "m", "max_tokens": 1, "messages": [TOOL_USE]}, "no tool result for toolu_1"),
    ],
)
def test_requests_that_a_provider_refuses_are_refused(
    path: str, body: bytes | dict[str, Any], problem: str
) -> None:
    """What breaks the rules of its API gets status 400 and never reaches the script."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with ScriptedModelServer([]) as server:
        answer = httpx2.post(f"{server.openai_url}/{path}", content=content)
    assert answer.status_code == 400
    assert problem in answer.json()["error"]["message"]
    assert isinstance(server.requests[0].answer, Fault)


def test_later_turns_are_read_alike_in_every_api() -> None:
    """Calls, results and the model's words of earlier turns are normalised, whatever their wire form."""
    seen: list[ModelRequest] = []

    def script(request: ModelRequest) -> Answer:
        seen.append(request)
        return TEXT

    user = {"role": "user", "content": "Find it"}
    item = {"type": "function_call", "call_id": "call_1", "name": "find", "arguments": "{}"}
    output = {
        "type": "function_call_output",
        "call_id": "call_1",
        "output": [{"type": "input_text", "text": "A-1"}],
    }
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "A-1"}
    use: dict[str, Any] = {"type": "tool_use", "id": "call_1", "name": "find", "input": {}}
    conversations: dict[str, dict[str, Any]] = {
        "chat/completions": {"messages": [user, {**ASSISTANT, "content": "Looking."}, RESULT]},
        "responses": {
            "input": [user, {"role": "assistant", "content": "Looking."}, {"type": "reasoning"}, item, output]
        },
        "messages": {
            "max_tokens": 1,
            "messages": [
                user,
                {"role": "assistant", "content": [{"type": "text", "text": "Looking."}, use]},
                {"role": "user", "content": [result]},
            ],
        },
    }
    with ScriptedModelServer(script) as server:
        for path, body in conversations.items():
            httpx2.post(f"{server.openai_url}/{path}", json={"model": "m", **body}).raise_for_status()
    assert seen[0].messages == seen[1].messages == seen[2].messages
    assert (seen[0].turn, seen[0].prompt) == (1, "Find it")
    assert seen[0].messages[1].text == "Looking."
    (answered,) = seen[0].tool_results
    assert (answered.tool, answered.text, answered.call_id) == ("find", "A-1", "call_1")


def test_a_response_may_point_to_an_earlier_one() -> None:
    """With `previous_response_id` the earlier turns are elsewhere: results without their calls are accepted."""
    body = {"type": "function_call_output", "call_id": "call_1", "output": "A-1"}
    with ScriptedModelServer([TEXT]) as server:
        asked = {"model": "m", "previous_response_id": "resp_1", "input": [body]}
        assert httpx2.post(f"{server.openai_url}/responses", json=asked).status_code == 200


def test_other_paths_and_unmeasured_requests_are_refused() -> None:
    """An unknown path names the known ones; a request without Content-Length is told to bring one."""
    with ScriptedModelServer([]) as server, httpx2.Client() as client:
        unknown = client.post(f"{server.url}/v1/embeddings", json={})
        assert unknown.status_code == client.get(f"{server.url}/").status_code == 404
        assert "/v1/chat/completions" in unknown.json()["error"]["message"]
        assert client.post(f"{server.url}/v1/messages", content=iter([b"{}"])).status_code == 411
    assert server.requests == ()


def test_half_a_request_is_no_request() -> None:
    """A client that dies while it sends leaves no trace in the log."""
    with ScriptedModelServer([]) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b'POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"model":')
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        assert server.requests == ()


SCRIPT_FILE = """
from agentflow.testing.models import Fault, Reply
answers = [Reply("one"), Fault.status(500)]
def echo(request):
    return Reply(request.prompt)
neither = 42
"""


@contextmanager
def process(script: str) -> Generator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The server as a process, and the line that it prints."""
    command = [sys.executable, "-m", "agentflow.testing.models", "--script", script, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server, json.loads(server.stdout.readline())
        finally:
            server.kill()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_process_of_its_own_serves_until_it_is_told_to_stop(tmp_path: Path, ending: signal.Signals) -> None:
    """It prints its addresses as one JSON line, takes faults and gives its log over HTTP, and ends with code 0."""
    path = tmp_path / "my_script.py"
    path.write_text(SCRIPT_FILE)
    with process(f"{path}:echo") as (server, urls), httpx2.Client() as client:
        queued = client.post(
            f"{urls['url']}/_agentflow/faults",
            json=[{"kind": "status", "status_code": 529}, {"kind": "drop"}],
        )
        assert queued.json() == {"queued": 2}
        with anthropic.Anthropic(base_url=urls["anthropic_url"], api_key="secret", max_retries=0) as claude:
            with pytest.raises(anthropic.InternalServerError):
                claude.messages.create(max_tokens=9, **CHAT)
            with pytest.raises(anthropic.APIConnectionError):
                claude.messages.create(max_tokens=9, **CHAT)
        with openai.OpenAI(base_url=urls["openai_url"], api_key="secret", max_retries=0) as gpt:
            answer = gpt.chat.completions.create(model=MODEL, messages=CHAT["messages"])
            assert answer.choices[0].message.content == "Hello?"
        log = client.get(f"{urls['url']}/_agentflow/requests").json()["requests"]
        assert [record["answer"].get("kind") for record in log] == ["status", "drop", None]
        assert urls["pid"] == server.pid
        server.send_signal(ending)
        rest = server.communicate(timeout=30)
        assert (server.returncode, rest) == (0, ("", ""))


@pytest.mark.parametrize(
    ("faults", "problem"),
    [
        ('[{"kind": "flood"}]', "kind"),
        ('[{"kind": "status", "status_code": 200}]', "400 and 599"),
        ('[{"kind": "delay", "delay_seconds": 3600}]', "60 s"),
        ('[{"kind": "drop", "after": 1}]', "after"),
        ('{"kind": "drop"}', "list"),
    ],
)
def test_faults_over_http_are_checked(faults: str, problem: str) -> None:
    """A fault that makes no sense is refused with the reason, and none of the list is queued."""
    with ScriptedModelServer([]) as server:
        answer = httpx2.post(f"{server.url}/_agentflow/faults", content=faults)
    assert answer.status_code == 400
    assert problem in answer.json()["error"]["message"]
    assert not server.faults


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("my_script.py", "FILE.py:NAME"),
        ("missing.py:echo", "no file missing.py"),
        ("no_such_module:echo", "ModuleNotFoundError"),
        ("my_script.py:missing", "has no 'missing'"),
        ("my_script.py:neither", "neither a function nor a list"),
        ("broken.py:echo", "SyntaxError"),
    ],
)
def test_scripts_that_cannot_be_loaded_are_named(
    script: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that leads to no script raises an error that says what is wrong with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_script.py").write_text(SCRIPT_FILE)
    (tmp_path / "broken.py").write_text("def echo(:")
    with pytest.raises(UsageError, match=problem):
        load_script(script)


def test_scripts_are_loaded_from_files_and_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function or a list of answers is found by file and by module name, with the file's own folder importable."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script_part.py").write_text("WORD = 'one'")
    (tmp_path / "script_main.py").write_text("from script_part import WORD\n" + SCRIPT_FILE)
    assert callable(load_script(f"{tmp_path}/script_main.py:echo"))
    assert load_script("script_main:answers") == [Reply("one"), Fault.status(500)]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "--script"),
        (["--script", "missing.py:echo"], "no file missing.py"),
        (["--script", "my_script.py:echo", "--port", "many"], "--port"),
        (["--script", "my_script.py:echo", "--port", "65536"], "65535"),
        (["--script", "my_script.py:echo", "--port", "TAKEN"], "cannot listen on 127.0.0.1"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], problem: str, tmp_path: Path) -> None:
    """The command answers wrong use with one line on stderr, nothing on stdout, and exit code 2."""
    (tmp_path / "my_script.py").write_text(SCRIPT_FILE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [str(taken.getsockname()[1]) if argument == "TAKEN" else argument for argument in arguments]
        ended = subprocess.run(
            [sys.executable, "-m", "agentflow.testing.models", *given],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert problem in ended.stderr
    assert ended.stderr.count("\n") == 1
