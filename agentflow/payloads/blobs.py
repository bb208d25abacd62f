"""Where large values are kept: what is asked of a store, and a folder as one. Knows nothing of what the bytes mean."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from agentflow.errors import CorruptRecord, JournalUnavailable

_PIECE = 1 << 20
_DRAFTS = "drafts"
_WAY_OUT = "free some space or put it right, then resume the run"


class Blob(NamedTuple):
    """One that a store has."""

    name: str
    size: int
    #: Seconds since the epoch, by the store's clock.
    written: float


class BlobStore(Protocol):
    """Bytes under names. A name is relative, of letters, digits, ``.-_`` and ``/``."""

    #: Where it is, for people: no credentials.
    where: str

    def put(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Store bytes, whole or not at all, durably when it returns. Raises `JournalUnavailable`."""
        ...

    def size(self, name: str) -> int | None:
        """The size of a blob; None where there is none."""
        ...

    def read(self, name: str) -> Iterator[bytes]:
        """The bytes of a blob. Raises `CorruptRecord` where there is none, `JournalUnavailable`."""
        ...

    def blobs(self) -> Iterator[Blob]:
        """All of them."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove blobs; without effect for those that there are not."""
        ...

    def now(self) -> float:
        """The time by its clock."""
        ...


class FolderStore:
    """A folder, of this machine or one that machines share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)

    def put(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """See `BlobStore.put`: written beside, flushed to the disk, then given its name."""
        path = self.folder / name
        draft = self.folder / _DRAFTS / secrets.token_hex(12)
        try:
            self._make(draft.parent)
            self._make(path.parent)
            try:
                with draft.open("xb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            _flush_folder(path.parent)
        except OSError as error:
            message = f"a value could not be stored in {self.where} ({error.strerror}); {_WAY_OUT}"
            raise JournalUnavailable(message) from error

    def size(self, name: str) -> int | None:
        """See `BlobStore.size`."""
        try:
            return (self.folder / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._unreadable(error) from error

    def read(self, name: str) -> Iterator[bytes]:
        """See `BlobStore.read`."""
        try:
            with (self.folder / name).open("rb", buffering=0) as file:
                while piece := file.read(_PIECE):
                    yield piece
        except FileNotFoundError:
            raise missing(name, self.where) from None
        except OSError as error:
            raise self._unreadable(error) from error

    def blobs(self) -> Iterator[Blob]:
        """See `BlobStore.blobs`. What a killed process had begun to write is among them."""
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # somebody else removed it meanwhile
                found = path.stat()
                if path.is_file():
                    yield Blob(path.relative_to(self.folder).as_posix(), found.st_size, found.st_mtime)

    def remove(self, names: Iterable[str]) -> None:
        """See `BlobStore.remove`."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def now(self) -> float:
        """See `BlobStore.now`: a shared folder has the clock of whoever serves it."""
        probe = self.folder / _DRAFTS / secrets.token_hex(12)
        self._make(probe.parent)
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)
        _flush_folder(folder.parent)

    def _unreadable(self, error: OSError) -> JournalUnavailable:
        return JournalUnavailable(
            f"a value could not be read from {self.where} ({error.strerror}); {_WAY_OUT}"
        )


def missing(name: str, where: str) -> CorruptRecord:
    """What a blob is called that is not there."""
    return CorruptRecord(
        f"the recorded value {name} is missing in {where}: put it back from a copy, or set AGENTFLOW_PAYLOADS_URL to "
        "where this journal keeps its values; `agentflow db check` lists what is missing"
    )


def _flush_folder(folder: Path) -> None:
    """Make what was created or renamed in a folder survive power loss, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
