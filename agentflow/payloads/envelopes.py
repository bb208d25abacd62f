"""The forms in which a row holds a value, told apart by their first byte; how a value with large parts is laid out.

JSON text begins with a printable character; everything else with a byte that JSON text never begins with:

    01  reference: JSON ``[name, size]`` of a blob
    02  ciphertext: length and id of the key, nonce, ciphertext of one of the other forms
    03  parts: length of a head, the head (JSON text with ``{"$": "part", "i": n}`` in it), one part after the other

Knows neither keys nor stores.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import orjson

from agentflow.errors import CorruptRecord

REFERENCE, CIPHERTEXT, PARTS = 1, 2, 3
#: Folder of the blobs that are not encrypted; those of the others are the ids of their keys.
PLAIN = "plain"
#: What the first byte of JSON text is not smaller than.
TEXT = 32
#: Bytes (characters) from which on a part of a value is kept beside the text, as it is, instead of in it.
PART_SIZE = 65_536
_PIECE = 1 << 20
_ENCODING = "surrogatepass"
_HEAD = 4


class Draft(NamedTuple):
    """An encoded value before it is kept: JSON text, and the large parts that are not in it."""

    text: bytes
    parts: Sequence[Any] = ()

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Its bytes, without a second copy of a part. Can be asked for any number of times."""
        if not self.parts:
            yield self.text
            return
        head = b'{"v":%b,"p":%b}' % (self.text, orjson.dumps([_described(part) for part in self.parts]))
        yield b"%c%b%b" % (PARTS, len(head).to_bytes(_HEAD, "big"), head)
        for part in self.parts:
            yield from pieces(part)

    def size(self) -> int:
        """How many bytes `chunks` has."""
        return len(self.text) if not self.parts else sum(len(chunk) for chunk in self.chunks())

    def part(self, item: Any) -> Any:
        """A part, where the text has its mark; else the item itself."""
        if not isinstance(item, dict):
            return item
        fields = cast("dict[str, Any]", item)
        return self.parts[fields["i"]] if fields.get("$") == "part" else fields


class Source(Protocol):
    """Bytes that are read once, from the beginning."""

    def read(self, count: int) -> bytes:
        """The next bytes: as many as asked for. Raises `CorruptRecord` where there are fewer."""
        ...

    def rest(self) -> bytes:
        """All that is left."""
        ...

    def finish(self) -> None:
        """Raise `CorruptRecord` where what was read is not what was written."""
        ...


class Chunks(Source):
    """Chunks read as a stream."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks: Iterator[bytes] = iter(chunks)
        self._chunk, self._at = b"", 0

    def read(self, count: int) -> bytes:
        """See `Source.read`."""
        if self._at + count <= len(self._chunk):
            self._at += count
            return self._chunk[self._at - count : self._at]
        found = [self._chunk[self._at :]]
        missing = count - len(found[0])
        self._chunk, self._at = b"", 0
        while missing > 0:
            chunk = self.next_chunk()
            if chunk is None:
                raise self.cut_off()
            found.append(chunk[:missing])
            if missing < len(chunk):
                self._chunk, self._at = chunk, missing
            missing -= len(chunk)
        return b"".join(found)

    def rest(self) -> bytes:
        """See `Source.rest`."""
        found = [self._chunk[self._at :]]
        self._chunk, self._at = b"", 0
        while (chunk := self.next_chunk()) is not None:
            found.append(chunk)
        return b"".join(found)

    def finish(self) -> None:
        """See `Source.finish`."""
        if self._at < len(self._chunk) or self.next_chunk() is not None:
            message = "a recorded value has more than it should; it is not read"
            raise CorruptRecord(message)

    def cut_off(self) -> CorruptRecord:
        """What it is called when there is less than there should be."""
        return CorruptRecord("a recorded value is cut off; it is not read")

    def next_chunk(self) -> bytes | None:
        """The next of them; None after the last one."""
        return next(self._chunks, None)


def read_draft(source: Source, *, parts: bool = True) -> Draft:
    """The draft of its bytes. Without `parts`, its text alone: nothing after that is read, or checked."""
    first = source.read(1)
    if first[0] != PARTS:
        text = first + source.rest()
        source.finish()
        return Draft(text)
    try:
        head: dict[str, Any] = orjson.loads(source.read(int.from_bytes(source.read(_HEAD), "big")))
        found = Draft(orjson.dumps(head["v"]), [])
        if parts:
            found = Draft(found.text, [_read_part(source, kind, size) for kind, size in head["p"]])
            source.finish()
    except (KeyError, TypeError, ValueError) as error:
        message = f"a recorded value cannot be read back ({type(error).__name__}: {error})"
        raise CorruptRecord(message) from error
    else:
        return found


def reference(name: str, size: int) -> bytes:
    """What a row holds of a value that is a blob."""
    return b"%c%b" % (REFERENCE, orjson.dumps([name, size]))


def referred(data: bytes) -> tuple[str, int] | None:
    """Name and size of the blob that a row refers to; None where it holds the value itself."""
    if not data or data[0] != REFERENCE:
        return None
    try:
        name, size = orjson.loads(data[1:])
        return str(name), int(size)
    except (TypeError, ValueError) as error:
        message = f"a recorded reference cannot be read ({error})"
        raise CorruptRecord(message) from error


def takes_long(data: bytes) -> bool:
    """Whether to open what a row holds may take long: it is in a store, or much of it has to be decrypted or copied."""
    return data[0] < TEXT and (data[0] == REFERENCE or len(data) > PART_SIZE)


def ciphertext(key_id: str, nonce: bytes, sealed: bytes) -> bytes:
    """What a row holds of a small encrypted value."""
    return b"%c%c%b%b%b" % (CIPHERTEXT, len(key_id), key_id.encode(), nonce, sealed)


def ciphered(data: bytes) -> tuple[str, bytes] | None:
    """The key's id, and nonce and ciphertext of a small encrypted value; None where it is none."""
    if not data or data[0] != CIPHERTEXT:
        return None
    end = 2 + data[1]
    return data[2:end].decode("utf-8", "replace"), data[end:]


def readable(data: bytes) -> Draft:
    """The draft of a value that its row holds readably. Raises `CorruptRecord` for any other."""
    if not data or data[0] >= TEXT:
        return Draft(data)
    if data[0] != PARTS:
        raise CorruptRecord(shown_instead(data))
    return read_draft(Chunks([data]))


def shown_instead(data: bytes) -> str:
    """What people are shown of a value that its row does not hold readably; empty where it does."""
    if not data or data[0] >= TEXT:
        return ""
    sealed = ciphered(data)
    if sealed is not None:
        return f"encrypted (key ID {sealed[0]})"
    found = referred(data)
    if found is None:
        return f"binary value of {len(data):,} bytes"
    folder = found[0].partition("/")[0]
    return f"stored value of {found[1]:,} bytes" + (
        "" if folder == PLAIN else f", encrypted (key ID {folder})"
    )


def _described(part: Any) -> tuple[str, int]:
    """How a part is read back, and its size in bytes."""
    if isinstance(part, str):
        return "str", len(part) if part.isascii() else sum(len(piece) for piece in pieces(part))
    kind = (
        "bytes"
        if isinstance(part, bytes) or (isinstance(part, memoryview) and part.readonly)
        else "bytearray"
    )
    return kind, part.nbytes if isinstance(part, memoryview) else len(part)


def pieces(part: Any) -> Iterator[bytes | memoryview]:
    """A large text or buffer as bytes, without a copy of the whole."""
    if isinstance(part, str):
        for start in range(0, len(part), _PIECE):
            yield part[start : start + _PIECE].encode("utf-8", _ENCODING)
        return
    view = memoryview(part).cast("B")
    for start in range(0, len(view), _PIECE):
        yield view[start : start + _PIECE]


def _read_part(source: Source, kind: str, size: int) -> Any:
    counts = (min(_PIECE, size - start) for start in range(0, size, _PIECE))
    if kind == "str":
        return _read_text(source, counts)
    if kind == "bytearray":
        whole, at = bytearray(size), 0
        for count in counts:
            whole[at : at + count] = source.read(count)
            at += count
        return whole
    if kind != "bytes":
        message = f"a recorded value has a part of an unknown kind ({kind!r}); upgrade agentflow"
        raise CorruptRecord(message)
    out = io.BytesIO()  # gives its bytes away without copying them
    for count in counts:
        out.write(source.read(count))
    return out.getvalue()


def _read_text(source: Source, counts: Iterator[int]) -> str:
    decoder, text = codecs.getincrementaldecoder("utf-8")(_ENCODING), ""
    for count in counts:
        text += decoder.decode(source.read(count))  # grows in place: nobody else has it
    return text + decoder.decode(b"", final=True)
