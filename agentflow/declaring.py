"""Options of tasks and flows as people write them: None is unset, and what there is not is refused with a way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from agentflow.errors import DefinitionError, DefinitionTypeError

_IN_THE_JOURNAL = "results are kept in the journal; agentflow.register_codec stores types of yours"
#: Options of Prefect's that mean nothing here, and why.
_ELSEWHERE: dict[str, str] = {
    "result_storage": _IN_THE_JOURNAL,
    "result_serializer": _IN_THE_JOURNAL,
    "result_storage_key": _IN_THE_JOURNAL,
    "cache_result_in_memory": "results are read from the journal when they are asked for",
    "viz_return_value": "what a run did is drawn from the run, not guessed beforehand",
    "asset_deps": "there are no assets here",
    "version": "the journal knows a task by its source; `aliases` names what it was called before",
}


def usable(
    kind: Literal["task", "flow"], name: str, known: Iterable[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that are set. `known`: those that there are. Raises `DefinitionError` for any other one."""
    found = {option: value for option, value in options.items() if value is not None}
    if kind == "flow" and "persist_result" in found and not found.pop("persist_result"):
        message = f"{name}: the result of a run is always recorded; take persist_result=False away"
        raise DefinitionError(message)
    unknown = sorted(found.keys() - set(known))
    if unknown:
        why = _ELSEWHERE.get(unknown[0])
        advice = f"{why}: take it away" if why else f"there are {', '.join(sorted(known))}"
        message = f"{name}: a {kind} has no option {unknown[0]}; {advice}"
        raise DefinitionTypeError(message)
    return found
