"""``agentflow db``: the journal as a database: brought up to date, checked, made smaller, carried elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import json as standard_json
import time
from base64 import b64decode, b64encode
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, cast

import orjson
from cyclopts import App, Parameter

from agentflow.cli.output import COMPLETED, FAILED, print_json, print_line, say
from agentflow.cli.run import Flag
from agentflow.errors import UsageError
from agentflow.journal.opening import open_journal
from agentflow.journal.protocol import Pruned
from agentflow.journal.protocol.admin import AdminVerbs, TableRow
from agentflow.settings import DAY, Settings
from agentflow.stored_values import Swept, missing_values, named_in_row, store_chunks, stored_chunks, sweep
from agentflow.version import VERSION

app = App(
    name="db",
    help="The journal as a database: bring it up to date, check it, make it smaller, carry it elsewhere.",
)

_FORMAT = 2
_FORMATS = (1, 2)
"""Those that can be read; the first had no stored values."""
_BYTES = "$b"


def lasting_journal() -> AdminVerbs:
    """The journal. Raises `UsageError` for one that ends with its process."""
    journal = open_journal()
    if not isinstance(journal, AdminVerbs):
        message = "the journal in memory is nowhere else; set AGENTFLOW_DATABASE_URL or AGENTFLOW_HOME to a lasting one"
        if journal.url != "memory:":
            message = f"the journal is behind a server; do this where {journal.url} has it"
        raise UsageError(message)
    return journal


@app.command
def upgrade(*, json: Flag = False) -> int:
    """Bring the journal to the schema of this version. Any command that opens it does that, too.

    Args:
        json: Print a JSON object.
    """
    journal = lasting_journal()
    schema = journal.facts()["schema"]
    if json:
        print_json({"url": journal.url, "schema": schema})
    else:
        say(f"{journal.url} has schema {schema}")
    return COMPLETED


@app.command
def check(*, sizes_only: Annotated[bool, Parameter(negative=())] = False, json: Flag = False) -> int:
    """Say how large the journal is, and whether it is whole. Exit code 1 where it is not.

    Large values in the store are read, too, and compared with their names; encrypted ones where their keys are here.

    Args:
        sizes_only: Only look whether those are there, and as large as they should be.
        json: Print a JSON object.
    """
    journal = lasting_journal()
    faults = journal.faults()
    faults += [] if faults else missing_values(journal, Settings.from_environment(), read=not sizes_only)
    facts: dict[str, Any] = {} if faults else journal.facts()  # what is broken cannot be counted
    if json:
        print_json({"url": journal.url, **facts, "faults": faults})
    elif faults:
        for fault in faults:
            say(f"broken: {fault}")
        say(f"{journal.url} is not whole: stop what uses it, and put back what is broken from a copy")
    else:
        print_line(f"journal     {journal.url}, schema {facts['schema']}")
        free = f", of which {_size(facts['free_bytes'])} free" if "free_bytes" in facts else ""
        print_line(f"size        {_size(facts['bytes'])}{free}")
        for table, count in facts["rows"].items():
            print_line(f"{table:<18}{count:>12,}")
        say("the journal is whole")
    return FAILED if faults else COMPLETED


@app.command
def prune(
    *,
    older_than: Annotated[float | None, Parameter(name="--older-than")] = None,
    dry_run: Flag = False,
    json: Flag = False,
) -> int:
    """Remove arguments, results, values of steps and logs of runs that ended long ago; what happened is kept.

    Runs, steps, approvals and what side effects were executed with stay. Nothing can go on from such a run any more.
    Large values in the store that nothing refers to any more are marked, and removed by the first prune that comes
    more than AGENTFLOW_PAYLOAD_GRACE seconds later.

    Args:
        older_than: Days since a run's end; default: AGENTFLOW_RETENTION_DAYS.
        dry_run: Only say what would be removed.
        json: Print a JSON object.
    """
    days = Settings.from_environment().retention_days if older_than is None else older_than
    if days < 0 or (days == 0 and older_than is None):
        message = (
            "say after how many days: --older-than 30 (AGENTFLOW_RETENTION_DAYS=0 removes nothing by itself)"
        )
        raise UsageError(message)
    journal, before = open_journal(), time.time() - days * DAY
    total, after = Pruned(), 0
    while True:
        done = journal.prune_runs(before, after=after, dry_run=dry_run)
        total = Pruned(*(one + other for one, other in zip(total[:-1], done[:-1], strict=True)))
        after = done.last
        if not after:
            break
    settings = Settings.from_environment()
    swept = sweep(journal, settings, dry_run=dry_run) if isinstance(journal, AdminVerbs) else Swept()
    if json:
        print_json(
            {
                "runs": total.runs,
                "values": total.values,
                "bytes": total.size,
                "log_lines": total.lines,
                "stored_values": swept._asdict(),
                "dry_run": dry_run,
            }
        )
    else:
        what = f"{total.values:,} values ({_size(total.size)}) and {total.lines:,} log lines of {total.runs:,} runs"
        say(f"{what} {'would be removed' if dry_run else 'removed'}")
        _tell_swept(swept, settings.payload_grace, dry_run=dry_run)
    return COMPLETED


def _tell_swept(swept: Swept, grace: float, *, dry_run: bool) -> None:
    """What became of stored values that nothing refers to."""
    if swept.removed:
        verb = "would be removed" if dry_run else "removed"
        say(f"{swept.removed:,} stored values ({_size(swept.removed_bytes)}) {verb}")
    if swept.marked:
        say(
            f"{swept.marked:,} stored values ({_size(swept.marked_bytes)}) are referred to by nothing: a prune more "
            f"than {grace:,.0f} s after this one removes them"
        )


@app.command
def export(file: Path, /) -> int:
    """Write all rows to a file, as lines of JSON, large values included; with a name that ends in .gz, compressed.

    Keys are not among them: whoever imports the file needs the file `key` of this home, too, and, where values are
    encrypted, the keys of AGENTFLOW_ENCRYPTION_KEYS.

    Args:
        file: A file that does not exist yet.
    """
    journal, count, names = lasting_journal(), 0, set[str]()
    try:
        with _opened(file, "xb") as out, _whole_or_none(file):
            head = {"agentflow": "journal", "format": _FORMAT, "version": VERSION, "key": _sign(journal)}
            out.write(orjson.dumps(head) + b"\n")
            for table, row in journal.dump():
                values = {
                    name: {_BYTES: b64encode(value).decode()} if isinstance(value, bytes) else value
                    for name, value in row.items()
                }
                # the standard library writes every float and every text that it can read again
                out.write(standard_json.dumps([table, values]).encode() + b"\n")
                names.update(named_in_row(table, row))
                count += 1
            out.write(orjson.dumps({"rows": count}) + b"\n")
            for name, number, chunk in stored_chunks(journal, Settings.from_environment(), sorted(names)):
                out.write(orjson.dumps([name, number, b64encode(chunk).decode()]) + b"\n")
            out.write(b'{"whole":true}\n')
    except OSError as error:
        message = f"cannot write {file}: {error.strerror}"
        raise UsageError(message) from None
    say(f"{count:,} rows of {journal.url} written to {file}")
    return COMPLETED


@app.command(name="import")
def load(file: Path, /) -> int:
    """Read what `agentflow db export` wrote into an empty journal, of whichever kind: all of it or nothing.

    Args:
        file: The file.
    """
    journal = lasting_journal()
    head: Any = next(_lines(file), None)
    known = cast("dict[str, Any]", head) if isinstance(head, dict) else {}
    if known.get("agentflow") != "journal" or known.get("format") not in _FORMATS:
        message = f"{file} was not written by `agentflow db export`, or by a newer version"
        raise UsageError(message)
    if known.get("key") != _sign(journal):
        message = (
            "the file belongs to another installation: copy the file `key` of its home folder into "
            f"{Settings.from_environment().home} first, else nothing that it holds can be read again"
        )
        raise UsageError(message)
    if known["format"] != 1:
        store_chunks(journal, Settings.from_environment(), _stored(file))
    try:
        count = journal.load(lambda: _rows(file))
    except ValueError as error:  # rows that do not fit
        message = f"cannot read {file}: {error}"
        raise UsageError(message) from None
    say(f"{count:,} rows read into {journal.url}")
    return COMPLETED


def _rows(file: Path) -> Iterator[TableRow]:
    """The rows of an export. Raises `UsageError` where it is not whole."""
    count, end = 0, cast("Any", None)
    lines = _lines(file)
    next(lines)
    for line in lines:
        if isinstance(line, dict):
            end = cast("Any", line).get("rows")
            break
        count += 1
        yield _row(file, line, count)
    if end != count:
        message = f"{file} is cut off after {count:,} rows; export again"
        raise UsageError(message)


def _stored(file: Path) -> Iterator[tuple[str, int, bytes]]:
    """The stored values of an export. Raises `UsageError` where it is not whole."""
    lines, whole = _lines(file), False
    for line in lines:
        if isinstance(line, dict) and "rows" in line:
            break
    else:
        return  # it is cut off among its rows: whoever reads those says so
    for line in lines:
        if isinstance(line, dict):
            whole = True
            break
        try:
            name, number, chunk = line
            yield str(name), int(number), b64decode(chunk, validate=True)
        except (TypeError, ValueError):
            message = f"cannot read {file}: what it holds of a stored value is none"
            raise UsageError(message) from None
    if not whole:
        message = f"{file} is cut off among its stored values; export again"
        raise UsageError(message)


def _row(file: Path, line: Any, number: int) -> TableRow:
    try:
        table, values = line
        return str(table), {
            name: b64decode(cast("Any", value)[_BYTES], validate=True) if isinstance(value, dict) else value
            for name, value in values.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        message = f"cannot read {file}: row {number:,} is none"
        raise UsageError(message) from None


def _lines(file: Path) -> Iterator[Any]:
    try:
        with _opened(file, "rb") as text:
            for line in text:
                yield standard_json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        message = f"cannot read {file}: {getattr(error, 'strerror', None) or error}"
        raise UsageError(message) from None


@contextmanager
def _whole_or_none(file: Path) -> Generator[None]:
    """Leave no half of a new file behind."""
    try:
        yield
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _opened(file: Path, mode: str) -> IO[bytes]:
    opened = gzip.open(file, mode) if file.name.endswith(".gz") else file.open(mode)  # noqa: SIM115 - the caller closes it
    return cast("IO[bytes]", opened)


def _sign(journal: AdminVerbs) -> str:
    """Tells installations apart, without telling the key."""
    return hashlib.blake2b(b"agentflow export", key=journal.key, digest_size=8).hexdigest()


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:  # noqa: PLR2004 - the step between units
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
