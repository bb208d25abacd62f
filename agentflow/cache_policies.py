"""Cache policies under Prefect's import path; what they are is in `agentflow.engine.caching`."""

from agentflow.engine.caching import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
    CacheKeyFnPolicy,
    CachePolicy,
    CompoundCachePolicy,
    FlowParameters,
    Inputs,
    RunId,
    TaskRunContext,
    TaskSource,
    task_input_hash,
)
from agentflow.model.isolation import IsolationLevel

#: Prefect's other name for it.
NONE = NO_CACHE

__all__ = [
    "DEFAULT",
    "FLOW_PARAMETERS",
    "INPUTS",
    "NONE",
    "NO_CACHE",
    "RUN_ID",
    "TASK_SOURCE",
    "CacheKeyFnPolicy",
    "CachePolicy",
    "CompoundCachePolicy",
    "FlowParameters",
    "Inputs",
    "IsolationLevel",
    "RunId",
    "TaskRunContext",
    "TaskSource",
    "task_input_hash",
]
