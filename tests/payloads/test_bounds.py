"""Values of every size and shape: they come back as they were, or are refused with the reason."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from agentflow import flow, task
from agentflow.errors import CodecError, CorruptRecord
from agentflow.journal.sqlite import SqliteJournal
from agentflow.model.states import StateType
from agentflow.payloads.codec import Codec
from agentflow.payloads.envelopes import PART_SIZE
from agentflow.payloads.opening import open_codec
from tests.faults import Measured
from tests.fundamentals.lives import rows, start
from tests.payloads.keeping import keeping, stored

SIZES = [0, 1, 999, 1000, 1001, PART_SIZE - 1, PART_SIZE, PART_SIZE + 1, 1 << 20, (1 << 20) + 1, 5_000_001]
LARGEST = 100_000_000
#: The tests that are counted among those of faults.
extremes = pytest.mark.fault(15, "values from 1 B to 100 MB, NaN, NUL, depth")
KEPT: list[Any] = []


@task
def kept() -> Any:
    return KEPT[-1]


@flow
def keeper() -> Any:
    return kept()


def text_of(size: int) -> str:
    return "é" * size


def nested(depth: int) -> Any:
    value: Any = "the innermost"
    for _ in range(depth):
        value = [value]
    return value


@extremes
@pytest.mark.parametrize("size", [*SIZES, pytest.param(LARGEST, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("make", [bytes, bytearray, text_of])
def test_any_size_comes_back(journal: SqliteJournal, size: int, make: Any, fault: Measured) -> None:
    """In its row or beside it, alone or within another value."""
    codec = open_codec(journal, keeping().settings)
    for value in (make(size), {"value": [make(size), 1]}):
        data, again = codec.round_trip(value)
        stored_value = codec.decode(data)
        fault(1, lost=int(stored_value != value), corrupt=int(type(stored_value) is not type(value)))
        assert again == value
        assert stored_value == value
        assert type(stored_value) is type(value)


@extremes
@pytest.mark.parametrize("times", [1, 40_000])
@pytest.mark.parametrize("part", ["\0", "\ud800", "\U0001f600", "\\", '"'])
def test_any_text_comes_back(journal: SqliteJournal, part: str, times: int, fault: Measured) -> None:
    """NUL, half of a surrogate pair, and what JSON escapes; short and long."""
    codec = open_codec(journal, keeping().settings)
    values: list[Any] = [part * times * 3, {part: [part * times]}]
    found = [codec.decode(codec.encode(value)) for value in values]
    fault(len(values), lost=sum(one != value for one, value in zip(found, values, strict=True)))
    assert found == values


@extremes
def test_numbers_that_json_does_not_know_come_back(journal: SqliteJournal, fault: Measured) -> None:
    """NaN and infinities, also in a value that is stored beside its row."""
    codec = open_codec(journal, keeping().settings)
    found = codec.decode(codec.encode([math.nan, math.inf, -math.inf, -0.0] * 500))
    fault(1, lost=2000 - len(found), corrupt=sum(not math.isnan(one) for one in found[::4]))
    assert math.isnan(found[0])
    assert (found[1], found[2], math.copysign(1, found[3])) == (math.inf, -math.inf, -1.0)
    assert len(stored(journal)) == 1


@extremes
def test_what_is_nested_too_deeply_fails_at_its_producer(journal: SqliteJournal, fault: Measured) -> None:
    """With the reason, and the run ends as failed."""
    KEPT.append(nested(10_000))
    outcome = start(keeper, journal=journal, using=keeping())
    fault(1, lost=0, corrupt=len(rows(journal, "completed")))
    assert outcome.state is StateType.FAILED
    assert isinstance(outcome.error, CodecError)
    assert "nested too deeply" in str(outcome.error) or "cannot be stored" in str(outcome.error)
    assert rows(journal, "completed") == []


@pytest.mark.parametrize("shape", [(), (3,), (500, 400), (1, 300_000)])
def test_arrays_come_back_and_are_their_callers_own(journal: SqliteJournal, shape: tuple[int, ...]) -> None:
    """Their buffers are stored as they are, beside a signed pickle; to change one changes no other."""
    codec = open_codec(journal, keeping().settings)
    array = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    data, again = codec.round_trip(array)
    again += 1
    assert np.array_equal(codec.decode(data), array)
    assert np.array_equal(again, array + 1)
    if array.nbytes > PART_SIZE:
        (path,) = stored(journal)
        assert array.tobytes() in path.read_bytes()


def test_a_buffer_of_a_signed_pickle_cannot_be_replaced() -> None:
    """The signature covers the buffers beside it, their number and their lengths."""
    codec = Codec(b"k" * 32)
    array = np.zeros(20_000)
    data = codec.encode(array)
    assert np.array_equal(codec.decode(data), array)
    with pytest.raises(CorruptRecord, match="not signed"):
        codec.decode(data[:-1] + b"\1")
    with pytest.raises(CorruptRecord, match="not signed"):
        Codec(b"o" * 32).decode(data)
    with pytest.raises(CorruptRecord, match="AGENTFLOW_ALLOW_PICKLE"):
        Codec(b"k" * 32, allow_pickle=False).decode(data)


def test_a_pickle_without_a_signature_is_refused() -> None:
    """Whoever can write to the journal cannot have a process run what they wrote."""
    codec = Codec(b"k" * 32)
    for text in (b'{"$":"pickle","v":"gASVAA=="}', b'{"$":"pickle","v":"gASVAA==","seal":""}'):
        with pytest.raises(CorruptRecord, match="not signed"):
            codec.decode(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\1",
        b"\1[]",
        b'\1["../../etc/passwd",3]',
        b"\2",
        b"\2\5ab",
        b"\3",
        b"\3\0\0\0\5{}",
        b"\4abc",
    ],
)
def test_what_no_codec_has_written_is_refused(data: bytes) -> None:
    """As a record that cannot be read, whatever is wrong with it."""
    with pytest.raises(CorruptRecord):
        Codec(b"k" * 32).decode(data)
