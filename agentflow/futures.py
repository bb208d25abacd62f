"""Futures of submitted tasks, as users import them; what they do is in `agentflow.engine.futures`."""

from agentflow.engine.futures import TaskFuture, TaskFutureList

__all__ = ["TaskFuture", "TaskFutureList"]
