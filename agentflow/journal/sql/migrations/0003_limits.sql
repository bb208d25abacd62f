-- Limits. `spent` slots of a decaying limit were used up at `spent_at`; they come back with time.
CREATE TABLE concurrency_limit (
  name TEXT PRIMARY KEY,
  slots INTEGER NOT NULL,
  active INTEGER NOT NULL,
  decay REAL NOT NULL,
  collision_strategy TEXT NOT NULL,
  declared INTEGER NOT NULL,
  spent REAL NOT NULL,
  spent_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- What claims hold (granted) and wait for, a row for each limit that a claim names.
CREATE TABLE slot (
  claim TEXT NOT NULL,
  name TEXT NOT NULL,
  slots INTEGER NOT NULL,
  ticket INTEGER NOT NULL,
  run INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  run_id TEXT NOT NULL,
  step TEXT NOT NULL,
  owner TEXT NOT NULL,
  keeper TEXT NOT NULL,
  since REAL NOT NULL,
  lease REAL NOT NULL,
  expires REAL NOT NULL,
  granted REAL,
  spends INTEGER NOT NULL,
  PRIMARY KEY (claim, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX slot_waiting ON slot (name, ticket) WHERE granted IS NULL;
CREATE INDEX slot_held ON slot (name) WHERE granted IS NOT NULL;
