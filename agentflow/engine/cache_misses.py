"""Why a call found no earlier result: the parts of its key beside those of the task's newest entries, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from agentflow.journal.protocol import CacheEntry

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def explain(parts: Mapping[str, str], entries: Sequence[CacheEntry]) -> tuple[str, str]:
    """What differs from the nearest of `entries` (newest first), and the id of the run that made it ("" for none)."""
    known = [(entry, dict[str, str](orjson.loads(entry.parts))) for entry in entries]
    if "run:" in parts:
        known = [(entry, other) for entry, other in known if other.get("run:") == parts["run:"]]
        if not known:
            return "no earlier result of this task in this run (RUN_ID is part of the key)", ""
    if not known:
        return "no earlier result of this task", ""
    nearest, other = min(known, key=lambda pair: len(_differing(parts, pair[1])))
    where = f"compared with the result of run {run_name(nearest.run_id)}"
    return f"{'; '.join(_words(parts, other))} ({where})", nearest.run_id


def _differing(one: Mapping[str, str], two: Mapping[str, str]) -> list[str]:
    return [part for part in {**one, **two} if one.get(part) != two.get(part)]


def _words(parts: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    kinds = [{part.partition(":")[0] for part in which} - {"argument", "closure"} for which in (parts, other)]
    if kinds[0] != kinds[1]:
        return ["the cache policy looks at other things"]
    words: list[str] = []
    by_kind: dict[str, list[str]] = {}
    for part in _differing(parts, other):
        kind, _, name = part.partition(":")
        if part not in other:
            words.append(f"{_NOUNS[kind]} {name!r} is new")
        elif part not in parts:
            words.append(f"{_NOUNS[kind]} {name!r} is gone")
        else:
            by_kind.setdefault(kind, []).append(name)
    for kind, names in by_kind.items():
        if kind == "source":
            words.append("the task's source has changed")
        elif kind == "key":
            words.append("the key function gives another key")
        else:
            plural = len(names) > 1
            listed = " and ".join(filter(None, [", ".join(map(repr, names[:-1])), repr(names[-1])]))
            words.append(f"{_NOUNS[kind]}{'s' * plural} {listed} {'differ' if plural else 'differs'}")
    return words


_NOUNS = {
    "argument": "argument",
    "closure": "closed-over value",
    "parameter": "flow parameter",
    "source": "source",
    "run": "run",
    "key": "key of",
}


def run_name(run_id: str) -> str:
    """A run in a sentence: the end of its id, by which commands find it."""
    return f"…{run_id[-8:]}" if run_id else "?"


def ago(seconds: float) -> str:
    """How long ago something was."""
    for name, size in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {name} ago"
    return f"{int(seconds)} s ago" if seconds >= 1 else "just now"
