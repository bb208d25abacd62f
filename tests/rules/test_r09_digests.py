"""R9: two values have equal digests if and only if they are the same input."""

from __future__ import annotations

import copy
import datetime as dt
import math
from collections import OrderedDict
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import SecretBytes, SecretStr

from agentflow.payloads.codec import Codec
from agentflow.payloads.digests import Hasher, canonical
from tests.rules.shapes import Base, Box, Colour, Frozen, Level, Open, Plain, Point, Rights, Sub
from tests.rules.test_r08_values import VALUES, shape


def digest(value: Any) -> bytes:
    return canonical([value])[0]


@given(VALUES)
@settings(max_examples=200, deadline=None, database=None)
def test_a_value_that_was_stored_and_read_back_has_the_same_digest(value: Any) -> None:
    """Arguments are found again whether they come from a first life or from the journal."""
    again = Codec(b"k" * 32).round_trip(value)[1]
    assert digest(again) == digest(value)
    assert digest(copy.deepcopy(value)) == digest(value)


def merged(value: Any) -> Any:
    """A value with what counts as one made one: tuples and lists, kinds of sets, the order of keys."""
    parts: Any = value
    kind: type[Any] = value.__class__
    found: Any = repr([kind, parts])
    if isinstance(value, Point):
        found = ["Point", merged(value.x), merged(value.y)]
    elif isinstance(value, (list, tuple)):
        found = ["list", *[merged(item) for item in parts]]
    elif isinstance(value, dict):
        found = ["dict", sorted(repr([merged(key), merged(item)]) for key, item in parts.items())]
    elif isinstance(value, (set, frozenset)):
        found = ["set", sorted(repr(merged(item)) for item in parts)]
    elif isinstance(value, (Box, Frozen)):
        found = [type(value).__name__, merged(value.content)]
    elif isinstance(value, Base):
        found = [type(value).__name__, merged(dict(value.__dict__))]
    return found


@given(VALUES, VALUES)
@settings(max_examples=200, deadline=None, database=None)
def test_digests_are_equal_exactly_where_values_are(first: Any, second: Any) -> None:
    """No two different inputs share a digest."""
    assert (digest(first) == digest(second)) == (merged(first) == merged(second)), (
        shape(first),
        shape(second),
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(1, 1.0, id="int and float"),
        pytest.param(1, True, id="int and bool"),
        pytest.param(0.0, -0.0, id="zeros"),
        pytest.param("1", 1, id="text and number"),
        pytest.param(b"a", "a", id="bytes and text"),
        pytest.param(None, False, id="None and False"),
        pytest.param([], {}, id="list and dict"),
        pytest.param([], set[int](), id="list and set"),
        pytest.param([1, [2]], [[1], 2], id="nesting"),
        pytest.param(["ab", "c"], ["a", "bc"], id="borders of texts"),
        pytest.param(Decimal("1.0"), Decimal("1.00"), id="decimals by text"),
        pytest.param(SecretStr("a"), SecretStr("b"), id="secrets, which dump alike"),
        pytest.param(SecretStr("a"), SecretBytes(b"a"), id="kinds of secrets"),
        pytest.param(SecretStr("a"), "a", id="a secret and its text"),
        pytest.param(Sub(secret_field=1), Sub(secret_field=2), id="excluded fields"),
        pytest.param(Base(name="x"), Sub(name="x"), id="a base and its subclass"),
        pytest.param(Open.model_validate({"a": 1}), Open.model_validate({"a": 2}), id="extra fields"),
        pytest.param(Point(1, 2), (1, 2), id="a named tuple and a tuple"),
        pytest.param(Box(1), Frozen(1), id="dataclasses"),
        pytest.param(Level.LOW, 1, id="an int enum and its int"),
        pytest.param(Colour.RED, Colour.BLUE, id="members"),
        pytest.param(Rights(0), Rights.READ, id="flags"),
        pytest.param(
            dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            dt.datetime(2026, 1, 1),  # noqa: DTZ001 - a naive one is meant
            id="aware and naive",
        ),
        pytest.param({1: 2}, {"1": 2}, id="types of keys"),
        pytest.param(int, float, id="classes"),
        pytest.param(len, max, id="functions"),
    ],
)
def test_different_inputs_have_different_digests(first: Any, second: Any) -> None:
    """However alike they look, or dump."""
    assert digest(first) != digest(second)


def private(number: int) -> Sub:
    made = Sub()
    made.__pydantic_private__ = {"_private": number}
    return made


def test_private_attributes_count() -> None:
    """They are part of what a function gets."""
    assert digest(private(1)) != digest(private(2))
    assert digest(private(1)) == digest(private(1))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(math.nan, float("nan"), id="NaN"),
        pytest.param((1, [2]), [1, (2,)], id="tuple and list"),
        pytest.param({"a": 1, "b": 2}, {"b": 2, "a": 1}, id="order of keys"),
        pytest.param({"a": 1}, OrderedDict({"a": 1}), id="kinds of mappings"),
        pytest.param({"x", "y", 1, None}, {None, 1, "y", "x"}, id="sets of mixed types"),
        pytest.param({1}, frozenset({1}), id="kinds of sets"),
    ],
)
def test_equal_inputs_have_equal_digests(first: Any, second: Any) -> None:
    """NaN equals itself; the order of what has none does not matter."""
    assert digest(first) == digest(second)


def test_cycles_have_digests() -> None:
    """Of their shape."""

    def loop(value: int) -> list[Any]:
        made: list[Any] = [value]
        made.append(made)
        return made

    assert digest(loop(1)) == digest(loop(1)) != digest(loop(2))


@pytest.mark.parametrize("value", [Plain(1), object(), iter([1]), lambda: 1, [{"a": (Plain(1),)}]])
def test_what_has_no_canonical_form_counts_by_type_and_says_so(value: Any) -> None:
    """Good enough within a run, never for other runs."""
    data, opaque = canonical([value])
    assert len(opaque) == 1
    assert data == canonical([value])[0]
    assert canonical([1, "a", None, (1, 2)])[1] == []


def test_digests_are_keyed_by_the_installation() -> None:
    """Nobody without the key can guess inputs of low entropy."""
    assert Hasher(b"a" * 32).digest(b"1") != Hasher(b"b" * 32).digest(b"1")
    assert len(Hasher(b"a" * 32).digest(b"1")) == 16
