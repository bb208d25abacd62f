-- Lives of runs: one row per claim, from 1; `account` says what became of the records that the life found.
CREATE TABLE life (
  run INTEGER NOT NULL,
  number INTEGER NOT NULL,
  began REAL NOT NULL,
  owner TEXT NOT NULL,
  origin TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  first INTEGER NOT NULL,
  ended REAL,
  end TEXT NOT NULL,
  message TEXT NOT NULL,
  account BLOB,
  PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;

-- Runs that began as a copy of another one, up to a step.
CREATE TABLE fork (
  run INTEGER PRIMARY KEY,
  source TEXT NOT NULL,
  step TEXT NOT NULL,
  name TEXT NOT NULL,
  taken INTEGER NOT NULL,
  changed INTEGER NOT NULL,
  happened BLOB NOT NULL
) STRICT;
