-- Results across runs, with what their keys were made of, so that a miss can be explained. Earlier entries lack that:
-- they are dropped, and made again when they are missed.
DROP TABLE cache;
CREATE TABLE cache (
  key BLOB PRIMARY KEY,
  value BLOB NOT NULL,
  created REAL NOT NULL,
  expires REAL,
  run INTEGER NOT NULL,
  run_id TEXT NOT NULL,
  task TEXT NOT NULL,
  name TEXT NOT NULL,
  parts BLOB NOT NULL,
  private INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX cache_by_task ON cache (task, created);
CREATE INDEX cache_by_expiry ON cache (expires) WHERE expires IS NOT NULL;
CREATE INDEX cache_private ON cache (run) WHERE private = 1;

-- Who computes a key (held = 1), and which of those calls wait for another key (held = 0).
CREATE TABLE cache_lock (
  key BLOB NOT NULL,
  run INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  step BLOB NOT NULL,
  above BLOB NOT NULL,
  held INTEGER NOT NULL,
  PRIMARY KEY (key, run, step)
) STRICT, WITHOUT ROWID;
CREATE INDEX cache_lock_by_above ON cache_lock (above);
CREATE INDEX cache_lock_by_run ON cache_lock (run);
