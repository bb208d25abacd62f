-- Deployments: flows under names. `concurrency_limit` 0 = none.
CREATE TABLE deployment (
  name TEXT COLLATE "C" PRIMARY KEY,
  flow TEXT COLLATE "C" NOT NULL,
  entrypoint TEXT NOT NULL,
  parameters BYTEA NOT NULL,
  schema BYTEA NOT NULL,
  origins TEXT NOT NULL,
  tags TEXT NOT NULL,
  description TEXT NOT NULL,
  version TEXT NOT NULL,
  concurrency_limit BIGINT NOT NULL,
  collision_strategy TEXT NOT NULL,
  paused BIGINT NOT NULL,
  cwd TEXT NOT NULL,
  interpreter TEXT NOT NULL,
  created DOUBLE PRECISION NOT NULL,
  updated DOUBLE PRECISION NOT NULL
);

-- The deployment that a run was asked of, and its version then; '' = none. `keeper`, which this store alone has, stays
-- the last column.
ALTER TABLE run ADD COLUMN deployment TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE run ADD COLUMN deployment_version TEXT NOT NULL DEFAULT '';
ALTER TABLE run ADD COLUMN kept_by BIGINT;
UPDATE run SET kept_by = keeper WHERE keeper IS NOT NULL;
ALTER TABLE run DROP COLUMN keeper;
ALTER TABLE run RENAME COLUMN kept_by TO keeper;
CREATE INDEX run_by_keeper ON run (keeper) WHERE keeper IS NOT NULL;
CREATE INDEX run_by_deployment ON run (deployment, number) WHERE deployment != '';
