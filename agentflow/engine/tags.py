"""Labels. A run keeps those that it began with; a step has the run's, its own, and those of what is around it."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from agentflow.engine.context import Frame
from agentflow.errors import DefinitionError

if TYPE_CHECKING:
    from agentflow.engine.step import Call

_NONE: frozenset[str] = frozenset()
#: Of the open ``tags(...)`` blocks, and of the tasks and sub-flows whose bodies run here.
TAGS: ContextVar[frozenset[str]] = ContextVar("agentflow_tags", default=_NONE)


def effective_tags(where: Frame | Call) -> frozenset[str]:
    """All tags of a call, or of the code that runs in a frame: of its run, of what is around it, its own."""
    frame = where if isinstance(where, Frame) else where.frame
    found = frozenset(frame.run.run.tags) | TAGS.get() | where.policy.tags
    for body in frame.enclosing():
        found |= body.policy.tags
    return found


def step_tags(call: Call) -> list[str]:
    """The tags of a call that its run does not have already: what its rows say."""
    return sorted((TAGS.get() | call.policy.tags).difference(call.run.run.tags))


def check_tags(tags: Iterable[str]) -> frozenset[str]:
    """The tags as a set. Raises `DefinitionError` for what is no tag: empty, not text, of several lines."""
    if isinstance(tags, str):
        message = f"tags={tags!r} is a text; give a list of texts"
        raise DefinitionError(message)
    found = frozenset(tags)
    for tag in found:
        if not isinstance(tag, str) or not tag.strip() or not tag.isprintable():  # pyright: ignore[reportUnnecessaryIsInstance]
            message = f"{tag!r} is no tag; a tag is one line of text"
            raise DefinitionError(message)
    return found
