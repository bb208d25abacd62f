-- A database as the first version of agentflow made it. Never change this file: the databases of users will not change, either.
CREATE TABLE migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL) STRICT;
CREATE TABLE run (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  flow TEXT NOT NULL,
  name TEXT NOT NULL,
  entrypoint TEXT NOT NULL,
  parameters BLOB NOT NULL,
  fingerprint TEXT NOT NULL,
  origins TEXT NOT NULL,
  state TEXT NOT NULL,
  message TEXT NOT NULL,
  created REAL NOT NULL,
  started REAL,
  ended REAL,
  result BLOB,
  error BLOB,
  epoch INTEGER NOT NULL,
  owner TEXT NOT NULL,
  cwd TEXT NOT NULL,
  interpreter TEXT NOT NULL,
  tags TEXT NOT NULL,
  crashes INTEGER NOT NULL
) STRICT;
CREATE TABLE step (
  id INTEGER PRIMARY KEY,
  event TEXT NOT NULL,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  scope BLOB NOT NULL,
  key BLOB NOT NULL,
  branch BLOB NOT NULL,
  occurrence INTEGER NOT NULL,
  effects INTEGER NOT NULL,
  effect INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  batch INTEGER NOT NULL,
  started REAL NOT NULL,
  ended REAL,
  value BLOB,
  detail BLOB
) STRICT;
CREATE TABLE wait (
  id TEXT PRIMARY KEY,
  run INTEGER NOT NULL,
  run_id TEXT NOT NULL,
  flow TEXT NOT NULL,
  step TEXT NOT NULL,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  question BLOB NOT NULL,
  schema BLOB NOT NULL,
  digest TEXT NOT NULL,
  policy TEXT NOT NULL,
  opened REAL NOT NULL,
  due REAL,
  decision BLOB,
  decided REAL,
  allowed_digest TEXT NOT NULL,
  consumed REAL
) STRICT, WITHOUT ROWID;
CREATE TABLE event (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL,
  name TEXT NOT NULL,
  payload BLOB NOT NULL,
  sent REAL NOT NULL,
  taken_by TEXT
) STRICT;
CREATE TABLE cache (
  key BLOB PRIMARY KEY,
  value BLOB NOT NULL,
  created REAL NOT NULL,
  expires REAL,
  run INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE log (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL,
  at REAL NOT NULL,
  level INTEGER NOT NULL,
  logger TEXT NOT NULL,
  step TEXT NOT NULL,
  text TEXT NOT NULL
) STRICT;
CREATE INDEX run_live ON run (number) WHERE state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED');
CREATE INDEX run_by_state ON run (state, number);
CREATE INDEX run_by_flow ON run (flow, number);
CREATE INDEX wait_by_run ON wait (run, opened);
CREATE INDEX wait_open ON wait (opened) WHERE decided IS NULL;
CREATE INDEX wait_unread ON wait (run) WHERE consumed IS NULL;
CREATE INDEX event_untaken ON event (run, name, id) WHERE taken_by IS NULL;
CREATE INDEX log_by_run ON log (run, id);
INSERT INTO migration VALUES (1, 'initial', 'd00f16bf81a27f3facc05ddb9abd3e75d787b8fcfbc41b23aceeec786b2f3a5e');
PRAGMA user_version=1;
PRAGMA application_id=1095126103;
