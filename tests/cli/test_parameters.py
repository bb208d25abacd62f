"""How values typed on the command line are read."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from agentflow.cli.parameters import read_object, read_pairs
from agentflow.errors import ParameterError


def schema(**types: Any) -> dict[str, Any]:
    """A flow's schema with parameters of these types."""
    return {"properties": {name: TypeAdapter(kind).json_schema() for name, kind in types.items()}}


@pytest.mark.parametrize(
    ("kind", "texts", "value"),
    [
        (int, ["3"], 3),
        (str, ["3"], "3"),
        (str, ["a=b"], "a=b"),
        (str, [""], ""),
        (str | None, ["null"], "null"),
        (int | None, ["null"], None),
        (bool, ["true"], True),
        (bool, ["yes"], "yes"),
        (float, ["1e3"], 1000.0),
        (list[str], ["a"], ["a"]),
        (list[str], ["a", "b"], ["a", "b"]),
        (list[str], ['["a", "b"]'], ["a", "b"]),
        (list[str] | None, ["1", "2"], ["1", "2"]),
        (list[int], ["1", "2"], [1, 2]),
        (dict[str, int], ['{"a": 1}'], {"a": 1}),
        (Any, ["3"], 3),
        (Any, ["three"], "three"),
    ],
)
def test_text_is_read_by_the_schema(kind: Any, texts: list[str], value: Any) -> None:
    """Where text is wanted, text stays text; elsewhere JSON is read as JSON; repeated names make a list."""
    assert read_pairs([f"x={text}" for text in texts], schema(x=kind), "-p") == {"x": value}


@pytest.mark.parametrize("pair", ["x", "=3", ""])
def test_pairs_need_both_sides(pair: str) -> None:
    """What is no name=value is refused."""
    with pytest.raises(ParameterError, match="-p wants name=value"):
        read_pairs([pair], {}, "-p")


def test_objects_are_objects() -> None:
    """--params takes one JSON object."""
    assert read_object(None, "--params") == {}
    assert read_object('{"a": [1]}', "--params") == {"a": [1]}
    with pytest.raises(ParameterError, match="--params wants a JSON object"):
        read_object("3", "--params")
