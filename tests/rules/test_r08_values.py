"""R8: what is stored comes back as it was, in the first life already - or fails at its producer."""

from __future__ import annotations

import datetime as dt
import math
import re
import threading
import uuid
import zoneinfo
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from agentflow import StepFailed, flow, register_codec, task
from agentflow.errors import CodecError, CorruptRecord
from agentflow.model.states import StateType
from agentflow.payloads.codec import Codec
from agentflow.payloads.failures import decode_failure, describe_failure, encode_failure
from tests.fundamentals.lives import Death, die, last_run, log_of, memory, options, resume, rows, start
from tests.rules.shapes import (
    Base,
    Box,
    Colour,
    Frozen,
    Holder,
    Level,
    Loose,
    Odd,
    Open,
    Plain,
    Point,
    Rights,
    Sub,
)

CODEC = Codec(b"k" * 32)

ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(allow_nan=False),
    st.text(st.characters()),
    st.binary(),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.complex_numbers(allow_nan=False),
    st.uuids(),
    st.dates(),
    st.times(),
    st.datetimes(),
    st.datetimes(timezones=st.just(dt.UTC)),
    st.datetimes(timezones=st.just(zoneinfo.ZoneInfo("Europe/Berlin"))),
    st.timedeltas(),
    st.sampled_from([Colour.RED, Colour.BLUE, Level.LOW, Rights.READ, Rights(0), Rights.READ | Rights.WRITE]),
    st.sampled_from([Path("a/b"), PurePath("c"), PureWindowsPath("C:\\d"), int, Colour, bytearray(b"x")]),
)
HASHABLE = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.dates())
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(), HASHABLE, st.just("$")), inner, max_size=3),
        st.sets(HASHABLE, max_size=3),
        st.frozensets(HASHABLE, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Box, inner),
        st.builds(Frozen, inner),
        st.builds(Base, name=st.text(), content=inner),
        st.builds(Sub, content=inner, more=st.integers(), secret_field=st.integers()),
    ),
    max_leaves=8,
)


def shape(value: Any) -> Any:
    """A value with the types of all its parts."""
    parts: Any = value
    if isinstance(value, (list, tuple)):
        return [type(parts), [shape(item) for item in parts]]
    if isinstance(value, dict):
        return [[shape(key), shape(item)] for key, item in parts.items()]
    if isinstance(value, (Box, Frozen)):
        return [type(value), shape(value.content)]
    if isinstance(value, BaseModel):
        return [type(value), shape(dict(value))]
    return [type(value), value]


@given(VALUES)
@settings(max_examples=300, deadline=None, database=None)
def test_every_supported_value_survives(value: Any) -> None:
    """Type and value of every part, exactly."""
    data, now = CODEC.round_trip(value)
    later = CODEC.decode(data)
    assert shape(later) == shape(now) == shape(value)
    assert b"\n" not in data


def test_annotations_never_narrow() -> None:
    """A subclass returned under its base keeps its fields, excluded and private ones as well."""
    value = Sub(name="x", more=3, secret_field=4)
    value.__pydantic_private__ = {"_private": 5}
    again: Any = CODEC.round_trip(value)[1]
    assert type(again) is Sub
    assert (again.more, again.secret_field, again.__pydantic_private__) == (3, 4, {"_private": 5})
    opened: Any = CODEC.round_trip(Open.model_validate({"extra": Decimal(1)}))[1]
    assert opened.extra == Decimal(1)
    assert again.model_fields_set == value.model_fields_set


@pytest.mark.parametrize("value", [math.nan, Decimal("NaN"), complex(math.nan, 0)])
def test_what_is_not_equal_to_itself_survives_too(value: Any) -> None:
    """NaN comes back as NaN."""
    assert repr(CODEC.round_trip(value)[1]) == repr(value)


def test_a_zone_that_the_codec_does_not_know_is_not_flattened_after_one_that_it_does() -> None:
    """How one datetime is stored says nothing of the next."""

    class Zone(dt.tzinfo):
        def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
            return dt.timedelta(hours=1)

        def dst(self, when: dt.datetime | None) -> None:
            return None

        def tzname(self, when: dt.datetime | None) -> str:
            return "Z"

    strict = Codec(b"k" * 32, allow_pickle=False)
    for _ in range(2):
        strict.round_trip(dt.datetime(2026, 1, 1))  # noqa: DTZ001 - a naive one is meant
        with pytest.raises(CodecError):
            strict.encode(dt.datetime(2026, 1, 1, tzinfo=Zone()))


def test_the_caller_receives_the_decoded_value_in_the_first_life() -> None:
    """Two names for one list are two lists, at once and not only on replay."""
    lives: list[Any] = []

    @task
    def aliased() -> list[list[int]]:
        inner = [1]
        return [inner, inner]

    @flow
    def run() -> Any:
        first, second = aliased()
        lives.append(first is second)
        if len(lives) == 1:
            raise Death
        return lives

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == [False, False]


def failing_result(make: Any, **policy: Any) -> Any:
    @task(**policy)
    def produce() -> Any:
        return make()

    @flow
    def run() -> str:
        try:
            produced: object = produce()
            return repr(type(produced))
        except CodecError as error:
            return str(error)

    return run


def looped() -> Any:
    items: list[Any] = []
    items.append(items)
    return items


def deep() -> Any:
    items: list[Any] = []
    for _ in range(100_000):
        items = [items]
    return items


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(threading.Lock, "persist_result=False", id="unpicklable"),
        pytest.param(looped, "contains itself", id="contains itself"),
        pytest.param(lambda: SecretStr("geheim"), "secrets are never recorded", id="a secret"),
        pytest.param(
            lambda: [{"key": SecretStr("geheim")}], "secrets are never recorded", id="a secret inside"
        ),
    ],
)
def test_what_cannot_be_stored_fails_at_its_producer(make: Any, words: str) -> None:
    """Loudly, with the ways out; nothing of it is in the journal."""
    journal = memory()
    outcome = start(failing_result(make, retries=2), journal=journal)
    assert words in outcome.value
    assert [row.event for row in rows(journal)] == ["failed"]
    assert b"geheim" not in b"".join(row.value or b"" for row in rows(journal))


def test_what_is_nested_too_deeply_fails_at_its_producer() -> None:
    """As a storing error, not as a crash of the engine."""
    with pytest.raises(CodecError, match="too deeply"):
        CODEC.encode(deep())


def test_a_result_that_is_not_to_be_recorded_is_made_again_on_resume() -> None:
    """`persist_result=False` is the way out for clients and connections; within a life it is the very object."""
    made: list[int] = []
    lives: list[int] = []

    @task(persist_result=False)
    def connect() -> Any:
        made.append(1)
        return threading.Lock()

    @flow
    def run() -> str:
        lock = connect()
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return type(lock).__name__

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).value == "lock"
    assert len(made) == 2


def test_unknown_types_are_pickled_and_signed() -> None:
    """Only this installation's key opens them; a forged or unsigned one is not read."""
    data = CODEC.encode([Plain(5)])
    assert CODEC.decode(data) == [Plain(5)]
    with pytest.raises(CorruptRecord, match="not signed"):
        Codec(b"x" * 32).decode(data)
    record = orjson.loads(data)
    for seal in ("", "0" * 64):
        with pytest.raises(CorruptRecord, match="not signed"):
            CODEC.decode(orjson.dumps([record[0] | {"seal": seal}]))
    del record[0]["seal"]
    with pytest.raises(CorruptRecord, match="not signed"):
        CODEC.decode(orjson.dumps(record))


def test_the_log_says_once_what_is_pickled() -> None:
    """Of each type: an argument, what a task returns, what the flow does."""

    @task
    def made(number: int) -> Plain:
        return Plain(number)

    @flow
    def run(given: Any) -> list[Any]:
        return [made(1), made(2), given]

    journal = memory()
    assert start(run, Loose(3), journal=journal).state is StateType.COMPLETED
    told = [text.partition(" is stored as a pickle")[0] for text in log_of(journal)]
    assert told == [f"a value of type tests.rules.shapes.{kind}" for kind in ("Loose", "Plain")]


def test_pickles_can_be_forbidden() -> None:
    """Then what only pickle can store fails at its producer."""
    outcome = start(failing_result(lambda: Plain(1)), using=options(allow_pickle=False))
    assert "forbids" in outcome.value


def test_decoding_never_imports() -> None:
    """A class of a module that is not loaded is not looked for."""
    records: list[dict[str, Any]] = [
        {"$": "model", "c": "antigravity:Thing", "v": {}, "f": []},
        {"$": "class", "v": "antigravity:Thing"},
        {"$": "what", "v": 1},
    ]
    for record in records:
        with pytest.raises(CorruptRecord):
            CODEC.decode(orjson.dumps(record))


def test_a_registered_codec_is_used_inside_of_containers() -> None:
    """It stores exactly its type."""

    class Money:
        def __init__(self, cents: int) -> None:
            self.cents = cents

    register_codec(Money, tag="tests.Money", encode=lambda money: money.cents, decode=Money)
    again = Codec(b"k" * 32, allow_pickle=False).round_trip({"price": [Money(5)]})[1]
    assert again["price"][0].cents == 5


def raised(make: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        make()
    return caught.value


def _raise(error: Exception) -> Any:
    def make() -> None:
        raise error

    return make


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(_raise(ValueError("x", 1)), ValueError, id="args"),
        pytest.param(lambda: Path("no/such/file").read_text(), FileNotFoundError, id="OSError"),
        pytest.param(b"\xff".decode, UnicodeDecodeError, id="UnicodeDecodeError"),
        pytest.param(lambda: dict[str, int]()["key"], KeyError, id="KeyError"),
        pytest.param(lambda: __import__("no_such_module"), ModuleNotFoundError, id="ImportError"),
        pytest.param(lambda: orjson.loads("{"), orjson.JSONDecodeError, id="JSONDecodeError"),
        pytest.param(_raise(ExceptionGroup("g", [ValueError(1)])), ExceptionGroup, id="groups"),
        pytest.param(_raise(Odd(5, hint="try")), Odd, id="an own __init__"),
        pytest.param(lambda: Sub.model_validate({"more": "x"}), StepFailed, id="pydantic"),
        pytest.param(_raise(Holder(threading.Lock())), StepFailed, id="holds a lock"),
        pytest.param(_raise(type("Local", (Exception,), {})("x")), StepFailed, id="a local class"),
    ],
)
def test_exceptions_are_the_same_in_every_life(make: Any, kind: type[Exception]) -> None:
    """Rebuilt where that is possible, `StepFailed` in both lives where it is not; the text is the same."""
    lives: list[Any] = []

    @task
    def fails() -> None:
        make()

    @flow
    def run() -> Any:
        try:
            fails()
        except Exception as error:  # noqa: BLE001 - what is looked at
            lives.append((type(error), str(error), getattr(error, "hint", None)))
        if len(lives) == 1:
            raise Death
        return None

    journal = memory()
    run_id = die(run, journal=journal)
    assert resume(run, run_id, journal).error is None
    assert lives[0] == lives[1]
    assert lives[0][0] is kind


def test_a_recorded_traceback_is_that_of_the_users_code() -> None:
    """Also of causes; of the calls of agentflow in between nothing is shown."""

    @task(retries=1)
    def inner() -> None:
        raise KeyError("cause")

    @task
    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError("effect") from error

    @flow
    def run() -> None:
        outer()

    journal = memory()
    start(run, journal=journal)
    stored = journal.get_run(last_run(journal))
    assert stored is not None
    assert stored.error is not None
    shown = describe_failure(stored.error)["traceback"]
    places = re.findall(r'^  File "(.*)", line \d+, in (\w+)$', shown, re.MULTILINE)
    assert places == [(__file__, "outer"), (__file__, "inner"), (__file__, "run"), (__file__, "outer")]
    assert "the direct cause" in shown


def test_an_exceptions_attributes_survive() -> None:
    """Those that can be stored."""
    data, shown = encode_failure(CODEC, raised(_raise(Odd(5, hint="try"))))
    again: Any = decode_failure(CODEC, data)
    assert (again.code, again.hint, again.args) == (5, "try", ("code 5",))
    assert isinstance(shown, Odd)


def test_a_record_that_cannot_be_read_stops_the_run() -> None:
    """It is neither run again nor swallowed, and the run can be resumed when the class is back."""
    lives: list[int] = []
    ran: list[int] = []

    @task
    def produce() -> Any:
        ran.append(1)
        return Box(1)

    @flow
    def run() -> str:
        with suppress(BaseException):  # what the engine must survive
            produce()
        lives.append(1)
        if len(lives) == 1:
            raise Death
        return "went on"

    journal = memory()
    run_id = die(run, journal=journal)
    steps: Any = journal._steps  # pyright: ignore[reportPrivateUsage]
    steps[1] = [row._replace(value=b'{"$":"gone"}') for row in steps[1]]
    with pytest.raises(CorruptRecord, match="gone"):
        resume(run, run_id, journal)
    stored = journal.get_run(run_id)
    assert stored is not None
    assert not stored.state.is_final
    assert ran == [1]


def test_identifiers_and_fractions_are_values() -> None:
    """Spot checks of what tags say."""
    assert orjson.loads(CODEC.encode(uuid.UUID(int=5)))["$"] == "uuid"
    assert orjson.loads(CODEC.encode(Fraction(1, 3))) == {"$": "fraction", "v": "1/3"}
