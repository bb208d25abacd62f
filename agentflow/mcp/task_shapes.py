"""The wire shapes of the Tasks extension (``io.modelcontextprotocol/tasks``, schema 2026-07-28). No behaviour."""

from __future__ import annotations

from typing import Any, Literal

from mcp_types import RequestParams
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

EXTENSION = "io.modelcontextprotocol/tasks"


class TaskParams(RequestParams):
    """Parameters of ``tasks/get`` and ``tasks/cancel``."""

    task_id: str = Field(alias="taskId")


class TaskUpdateParams(TaskParams):
    """Parameters of ``tasks/update``."""

    input_responses: dict[str, Any] = Field(alias="inputResponses")


class Acknowledgement(BaseModel):
    """The empty result of ``tasks/update`` and ``tasks/cancel``."""

    result_type: Literal["complete"] = Field(default="complete", serialization_alias="resultType")


class TaskShape(BaseModel):
    """A task: ``CreateTaskResult`` with `result_type` "task", the result of ``tasks/get`` with "complete"."""

    model_config = ConfigDict(validate_by_name=True)

    result_type: str = Field(serialization_alias="resultType")
    task_id: str = Field(serialization_alias="taskId")
    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    status_message: str | None = Field(default=None, serialization_alias="statusMessage")
    created_at: str = Field(serialization_alias="createdAt")
    last_updated_at: str = Field(serialization_alias="lastUpdatedAt")
    #: None = for ever: runs stay in the journal until somebody prunes it.
    ttl_ms: int | None = Field(default=None, serialization_alias="ttlMs")
    poll_interval_ms: int = Field(default=500, serialization_alias="pollIntervalMs")
    input_requests: dict[str, Any] | None = Field(default=None, serialization_alias="inputRequests")
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @model_serializer(mode="wrap")
    def _with_ttl(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """``ttlMs`` is required, also as null, and everything else that is null is left out."""
        shown: dict[str, Any] = handler(self)
        return {name: value for name, value in shown.items() if value is not None} | {"ttlMs": self.ttl_ms}
