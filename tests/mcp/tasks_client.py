"""A client that knows the Tasks extension."""

import asyncio
from typing import Any, Literal

from fastmcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp_types import CallToolResult, Request, RequestParams, Result
from pydantic import ConfigDict, Field

from agentflow.mcp.task_shapes import EXTENSION
from tests.mcp.conftest import Person, connect


class Created(Result):
    """A task instead of a result, as a client reads it."""

    model_config = ConfigDict(extra="allow")
    result_type: Literal["task"] = Field(alias="resultType")
    task_id: str = Field(alias="taskId")
    status: str


async def unresolved(result: Created, context: ClaimContext) -> CallToolResult:
    """Not used: these tests look at the task itself."""
    raise NotImplementedError


class KnowsTasks(ClientExtension):
    """A client that has declared the extension and takes tasks."""

    identifier = EXTENSION

    def claims(self) -> list[ResultClaim[Any]]:
        """The one extra shape of a call's result."""
        return [ResultClaim(result_type="task", model=Created, resolve=unresolved)]


class Answer(Result):
    """Whatever is answered."""

    model_config = ConfigDict(extra="allow")


class AnyParams(RequestParams):
    model_config = ConfigDict(extra="allow")


class TaskRequest(Request[AnyParams, str]):
    """A request of the extension."""

    name_param = "taskId"


async def ask(client: Client[Any], method: str, **params: Any) -> dict[str, Any]:
    """Send a request of the extension."""
    request = TaskRequest(method=method, params=AnyParams.model_validate(params))
    answer = await client.session.send_request(request, Answer)
    return answer.model_dump(by_alias=True)


async def call(client: Client[Any], tool: str, **arguments: Any) -> Any:
    """Call a tool, taking a task for an answer."""
    return await client.session.call_tool(tool, arguments, allow_input_required=True, allow_claimed=True)


async def until(client: Client[Any], task_id: str, *states: str) -> dict[str, Any]:
    """Poll a task until it is in one of these states."""
    async with asyncio.timeout(20):
        while True:
            task = await ask(client, "tasks/get", taskId=task_id)
            if task["status"] in states:
                return task


def knowing(server: Any, person: Person | None = None) -> Client[Any]:
    return connect(server, "auto", person, extensions=[KnowsTasks()])
