"""Failures of steps to bytes and back.

An exception that cannot be rebuilt becomes `StepFailed` at once, so that code which catches it sees in the first life
what it would see on replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from agentflow.errors import CorruptRecord, JournalUnavailable
from agentflow.model.states import State
from agentflow.payloads.codec import Codec
from agentflow.payloads.envelopes import Draft, readable, shown_instead
from agentflow.payloads.exceptions import description, is_same, made_of, rebuilt, shown_traceback
from agentflow.payloads.shapes import exception_parts


def encode_failure(
    codec: Codec, error: BaseException, state: State[Any] | None = None
) -> tuple[bytes, BaseException]:
    """The bytes of `error`, and the exception that every life raises for it (itself where it can be rebuilt).

    `state`: the state in which the step ended, where that says more than the exception. Raises `CodecError` where what
    it carries cannot be stored.
    """
    record = {**description(error), "traceback": shown_traceback(error)}
    if state is not None:
        record["state"] = replace(state, data=None) if state.data is error else state
        codec.draft(record["state"])
    try:
        record["args"] = made_of(error)
        record["parts"] = dict(exception_parts(error))
        draft = codec.draft(record)
        if is_same(error, rebuilt(codec.again(draft))):
            return codec.keep(draft), error
    except Exception:  # noqa: BLE001, S110 - the exception's own code runs here, and may raise anything
        pass
    except CorruptRecord:  # not of a kept value: nothing was read
        pass
    for name in ("args", "parts"):
        record.pop(name, None)
    draft = codec.draft(record)
    stand_in = rebuilt(codec.again(draft))
    stand_in.__cause__ = error
    return codec.keep(draft), stand_in


def decode_failure(codec: Codec, data: bytes) -> BaseException:
    """The exception of `data`."""
    return rebuilt(codec.decode(data))


def state_of_failure(codec: Codec, data: bytes) -> State[Any] | None:
    """The state that was recorded with a failure; its data is None where that is the exception itself."""
    return codec.decode(data).get("state") if b'"state"' in codec.text(data) else None


def describe_failure(data: bytes, opened: Callable[[bytes], Draft] | None = None) -> dict[str, str]:
    """What people are shown of a recorded failure, without building it: type, text, traceback.

    `opened` opens what is not readable in the row itself; without it, that is only named.
    """
    try:
        draft = opened(data) if opened is not None else readable(data)
        record = orjson.loads(draft.text)
        return {name: str(draft.part(record.get(name, ""))) for name in ("type", "text", "traceback")}
    except orjson.JSONDecodeError:
        return {"type": shown_instead(data) or "unreadable", "text": "", "traceback": ""}
    except (CorruptRecord, JournalUnavailable):
        return {"type": shown_instead(data) or "unreadable", "text": "", "traceback": ""}
