"""What a value of a hundred megabytes costs: time against a bare copy to the disk, and memory; for ``make bench``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentflow import flow, task
from agentflow.engine.active import Options
from agentflow.payloads.encryption import new_key
from agentflow.payloads.opening import open_codec
from agentflow.settings import Settings
from tests.benchmarks.measure import Bench, compare, table
from tests.journal.oracle import EVERYTHING
from tests.payloads.test_memory import MOST, needed

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
SIZE, PIECE = 100_000_000, 1 << 20
#: How many times the bare copy each may take.
BARS = {"store": 2.5, "store, encrypted": 2.5, "read": 2.5, "read, encrypted": 2.5}
NUMBERS = count()
VALUE = [b""]


@task
def made() -> bytes:
    return VALUE[0]


@flow
def whole() -> int:
    return len(made())


def another() -> None:
    """A value that nobody has stored yet."""
    VALUE[0] = b"%012d" % next(NUMBERS) + os.urandom(1000) * (SIZE // 1000)


def pieces(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    for start in range(0, len(view), PIECE):
        yield view[start : start + PIECE]


class Copies:
    """The same bytes moved by a loop that makes the same promises: durable, with a digest, by the same cipher."""

    def __init__(self, folder: Path, cipher: AESGCM | None) -> None:
        self.folder, self.cipher = folder, cipher
        self.last = folder / "none"

    def store(self) -> float:
        another()
        path = self.last = self.folder / f"copy-{next(NUMBERS)}"
        begin = time.perf_counter()
        state = blake2b(digest_size=32)
        with path.open("wb") as file:
            for number, piece in enumerate(pieces(VALUE[0])):
                nonce = number.to_bytes(12, "big")
                state.update(piece)
                file.write(piece if self.cipher is None else self.cipher.encrypt(nonce, piece, None))
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return time.perf_counter() - begin

    def read(self) -> float:
        found, state = bytearray(), blake2b(digest_size=32)
        begin = time.perf_counter()
        with self.last.open("rb") as file:
            for number in count():
                piece = file.read(PIECE if self.cipher is None else PIECE + 16)
                if not piece:
                    break
                nonce = number.to_bytes(12, "big")
                plain = piece if self.cipher is None else self.cipher.decrypt(nonce, piece, None)
                state.update(plain)
                found += plain
        taken = time.perf_counter() - begin
        assert len(found) == len(VALUE[0])
        return taken


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_large_value_costs_little_more_than_its_copy(tmp_path: Path, encrypted: bool) -> None:
    """By a step of a run, with its row; and read back by a codec, as a later life does."""
    keys = new_key("k1") if encrypted else ""
    options = Options(settings=Settings(home=tmp_path, encryption_keys=keys))
    copies = Copies(tmp_path, AESGCM(os.urandom(32)) if encrypted else None)
    suffix = ", encrypted" if encrypted else ""
    with Bench() as bench:
        journal = bench.journal()

        def store() -> float:
            another()
            begin = time.perf_counter()
            assert whole.run({}, journal=journal, options=options).value == len(VALUE[0])
            return time.perf_counter() - begin

        def read() -> float:
            number = max(run.number for run in journal.list_runs(EVERYTHING))
            (row,) = journal.steps(number)
            begin = time.perf_counter()
            found = open_codec(journal, options.settings).decode(row.value or b"")
            taken = time.perf_counter() - begin
            assert len(found) == len(VALUE[0])
            return taken

        def compared(name: str, case: Callable[[], float], floor: Callable[[], float]) -> None:
            (figure,) = compare({name + suffix: case}, floor, 1, rounds=3)
            print(f"\n{table([figure], BARS)}")
            assert figure.ratio < BARS[figure.name]

        compared("store", store, copies.store)
        compared("read", read, copies.read)
        journal.close()


@pytest.mark.parametrize("how", ["store", "read"])
def test_a_large_value_is_held_once(tmp_path: Path, how: str) -> None:
    """What a process needs at most, as a multiple of the value."""
    ratio = needed("store", "bytes", tmp_path / "j.db")
    if how == "read":
        ratio = needed("read", "bytes", tmp_path / "j.db")
    print(f"\n{how}: {ratio:.2f} times the value in memory at most")
    assert ratio < MOST
