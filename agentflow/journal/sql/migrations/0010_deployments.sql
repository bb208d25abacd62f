-- Deployments: flows under names. `concurrency_limit` 0 = none.
CREATE TABLE deployment (
  name TEXT PRIMARY KEY,
  flow TEXT NOT NULL,
  entrypoint TEXT NOT NULL,
  parameters BLOB NOT NULL,
  schema BLOB NOT NULL,
  origins TEXT NOT NULL,
  tags TEXT NOT NULL,
  description TEXT NOT NULL,
  version TEXT NOT NULL,
  concurrency_limit INTEGER NOT NULL,
  collision_strategy TEXT NOT NULL,
  paused INTEGER NOT NULL,
  cwd TEXT NOT NULL,
  interpreter TEXT NOT NULL,
  created REAL NOT NULL,
  updated REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- The deployment that a run was asked of, and its version then; '' = none.
ALTER TABLE run ADD COLUMN deployment TEXT NOT NULL DEFAULT '';
ALTER TABLE run ADD COLUMN deployment_version TEXT NOT NULL DEFAULT '';
CREATE INDEX run_by_deployment ON run (deployment, number) WHERE deployment != '';
