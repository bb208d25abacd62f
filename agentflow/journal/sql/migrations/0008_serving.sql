-- Keys of workers that reach this journal through a server; only what a key is known by is stored.
CREATE TABLE api_key (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  digest BLOB NOT NULL UNIQUE,
  created REAL NOT NULL,
  revoked REAL
) STRICT, WITHOUT ROWID;

-- Those workers, as long as they are heard of. `number`: what the store knows a process by that owns runs.
CREATE TABLE worker_session (
  id TEXT PRIMARY KEY,
  number INTEGER NOT NULL,
  owner TEXT NOT NULL,
  lease REAL NOT NULL,
  api_key TEXT NOT NULL,
  opened REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- What their requests came to, until they say that they know it.
CREATE TABLE answer (
  session TEXT NOT NULL,
  serial INTEGER NOT NULL,
  outcome BLOB,
  PRIMARY KEY (session, serial)
) STRICT, WITHOUT ROWID;
