-- The run that started another one, and with which that one is cancelled.
ALTER TABLE run ADD COLUMN parent TEXT NOT NULL DEFAULT '';
CREATE INDEX run_by_parent ON run (parent) WHERE parent != '';
