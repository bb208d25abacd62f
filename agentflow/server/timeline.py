"""The steps of a run in the small: what a list of thousands needs of each, in columns; values stay in the journal."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, cast

from agentflow.model.steps import StepEvent, StepKind, StepRow
from agentflow.views import StepTree

Step = dict[str, Any]
_NO_PARENT = 0
_NAMED = b'"run_name"'


class Timeline:
    """The steps of a run, folded from its rows without their values."""

    def __init__(self, key: bytes) -> None:
        self._tree = StepTree(key)
        #: In the order in which they were first recorded.
        self.steps: list[Step] = []
        self._by_seq: dict[int, Step] = {}
        self._seq_of: dict[str, int] = {"": _NO_PARENT}
        #: Which step each row changed, in the order of the rows.
        self._changes: list[tuple[int, int]] = []

    @property
    def last(self) -> int:
        """Id of the last row taken in."""
        return self._tree.last

    def feed(self, rows: Iterable[StepRow]) -> None:
        """Take in rows."""
        for row in rows:
            speaks = row.kind == StepKind.MODEL and row.detail is not None
            tells = speaks or (row.detail is not None and _NAMED in row.detail)
            step = self._tree.feed([row._replace(value=None, detail=row.detail if tells else None)])[0]
            if not speaks and tells:
                step["detail"] = None
            if "rows" not in step:
                step["rows"] = list[int]()
                self.steps.append(step)
                self._by_seq[step["seq"]] = step
                self._seq_of[step["id"]] = step["seq"]
            step["rows"].append(row.id)
            self._changes.append((row.id, step["seq"]))

    def step(self, seq: int) -> Step | None:
        """The step of that sequence number."""
        return self._by_seq.get(seq)

    def seq_of(self, identity: str) -> int:
        """The sequence number of the step of that identity; 0 where it has not been recorded."""
        return self._seq_of.get(identity, _NO_PARENT)

    def changed_since(self, row_id: int) -> list[Step]:
        """The steps that rows after `row_id` are about."""
        start = bisect_right(self._changes, row_id, key=lambda change: change[0])
        return [self._by_seq[seq] for seq in sorted({seq for _, seq in self._changes[start:]})]

    def after(self, seq: int, limit: int) -> list[Step]:
        """Up to `limit` steps with a greater sequence number."""
        start = bisect_right(self.steps, seq, key=lambda step: cast("int", step["seq"]))
        return self.steps[start : start + limit]

    def columns(self, steps: Sequence[Step]) -> dict[str, Any]:
        """Steps as columns: a tenth of what a list of objects would weigh."""
        kinds, names, events = _Words(), _Words(), _Words()
        return {
            "seq": [step["seq"] for step in steps],
            "parent": [self._seq_of.get(step["parent"], _NO_PARENT) for step in steps],
            "kind": [kinds(step["kind"]) for step in steps],
            "name": [names(shown_name(step)) for step in steps],
            "event": [events(step["event"]) for step in steps],
            "started": [_milliseconds(step["started"]) for step in steps],
            "ended": [_milliseconds(step["ended"]) for step in steps],
            "attempts": [attempts_of(step) for step in steps],
            "effect": [int(step["effect"]) for step in steps],
            "tokens": [tokens_of(step) for step in steps],
            "words": {"kind": kinds.words, "name": names.words, "event": events.words},
        }


class _Words:
    """Numbers words, so that each is sent once."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._numbers: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        number = self._numbers.get(word)
        if number is None:
            number = self._numbers[word] = len(self.words)
            self.words.append(str(word))
        return number


def shown_name(step: Step) -> str:
    """What people see of the step: the name of this one call, else that of its task."""
    return str(step["run_name"] or step["name"])


def attempts_of(step: Step) -> int:
    """How often the step's body has been begun."""
    return int(step["attempts"]) + (0 if step["event"] == StepEvent.ATTEMPT else 1)


def tokens_of(step: Step) -> int:
    """Tokens that a model step used, in and out; 0 where nobody counted."""
    usage = usage_of(step)
    return sum(int(usage.get(name) or 0) for name in ("input_tokens", "output_tokens"))


def usage_of(step: Step) -> dict[str, Any]:
    """What a model step reports of its usage."""
    detail: Any = step.get("detail")
    usage: Any = detail.get("usage") if isinstance(detail, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return cast("dict[str, Any]", usage) if isinstance(usage, dict) else {}


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
