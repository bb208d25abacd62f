"""Scripted models: OpenAI- and Anthropic-compatible servers on loopback that say what a script says.

    def script(request: ModelRequest) -> Answer:
        if request.turn == 0:
            return Reply(tool_calls=[ToolCall("find_order", {"order_id": "A-17"})])
        return Reply(f"Found: {request.tool_results[0].text}")

    with ScriptedModelServer(script) as server:
        server.faults.append(Fault.status(429, retry_after=0.05))
        client = openai.OpenAI(base_url=server.openai_url, api_key="none")
        ...
        assert len(server.requests) == 3

It speaks ``POST /v1/chat/completions``, ``POST /v1/responses`` and ``POST /v1/messages``, as JSON and as server-sent
events, with text, (parallel) tool calls and usage, and ``GET /v1/models``. The same script serves all three APIs.
As a process of its own: ``python -m agentflow.testing.models --script file.py:script --port 0``.

This module is the front door; what is behind it: `models_script` the values, `models_server` HTTP and the log,
`models_answers` faults, `models_dialect` with `models_chat`, `models_responses`, `models_messages` the wording.
"""

from __future__ import annotations

from agentflow.testing.models_command import load_script, main
from agentflow.testing.models_script import (
    Answer,
    Fault,
    Message,
    ModelRequest,
    RecordedRequest,
    Reply,
    Script,
    ToolCall,
    ToolOffer,
    Usage,
)
from agentflow.testing.models_server import ScriptedModelServer

__all__ = [
    "Answer",
    "Fault",
    "Message",
    "ModelRequest",
    "RecordedRequest",
    "Reply",
    "Script",
    "ScriptedModelServer",
    "ToolCall",
    "ToolOffer",
    "Usage",
    "load_script",
]

if __name__ == "__main__":
    raise SystemExit(main())
