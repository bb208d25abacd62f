"""Why steps were, or were not, taken from the cache, in words for people; recorded it is in the steps' details."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from agentflow.engine.cache_misses import ago, run_name


def cache_words(steps: Sequence[dict[str, Any]]) -> str:
    """What steps of one name say of the cache, in one line; empty where they have no policy."""
    details: list[dict[str, Any]] = [step["detail"] for step in steps if step.get("detail")]
    told: list[dict[str, Any]] = [detail["cache"] for detail in details if "cache" in detail]
    if len(told) == 1:
        return _words(told[0])
    reasons = Counter(found["why"].partition(" (compared")[0] for found in told if found["result"] != "hit")
    hits = sum(found["result"] == "hit" for found in told)
    words = [f"{hits} from the cache"] if hits else []
    words += [f"{count} not: {reason}" for reason, count in reasons.most_common(3)]
    return "; ".join(words)


def _words(told: dict[str, Any]) -> str:
    if told["result"] == "hit":
        return f"from the cache: run {run_name(told['from_run'])}, {ago(told['age_s'])}"
    kept = f"; its result is not kept: {told['unstored']}" if "unstored" in told else ""
    return f"{'not cached' if told['result'] == 'uncached' else 'not from the cache'}: {told['why']}{kept}"
