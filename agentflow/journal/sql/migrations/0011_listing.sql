-- What is listed is found by indexes, however much there is of it: the newest of each state, merged.
DROP INDEX run_by_flow;
CREATE INDEX run_by_flow ON run (flow, state, number);

-- Runs that can move; those that wait are found by their waits, unless their process has died.
DROP INDEX run_live;
CREATE INDEX run_ready ON run (number) WHERE state IN ('PENDING', 'RUNNING', 'CANCELLING');
CREATE INDEX run_lost ON run (number) WHERE state = 'PAUSED' AND owner != '';

-- Tags of runs, kept by triggers, so that a run without any costs nothing.
CREATE TABLE run_tag (
  number INTEGER NOT NULL,
  tag TEXT NOT NULL,
  flow TEXT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (number, tag)
) STRICT, WITHOUT ROWID;
-- a run's tags are one text, a line for each: as the items of an array in JSON
INSERT INTO run_tag
SELECT run.number, item.value, run.flow, run.state
FROM run, json_each('[' || replace(replace(json_quote(run.tags), '\\', '\u005c'), '\n', '","') || ']') AS item
WHERE run.tags != '';
CREATE INDEX run_tag_by_state ON run_tag (tag, state, number);
CREATE INDEX run_tag_by_flow ON run_tag (tag, flow, state, number);
CREATE TRIGGER run_tag_added AFTER INSERT ON run WHEN new.tags != ''
BEGIN
  INSERT INTO run_tag
  SELECT new.number, item.value, new.flow, new.state
  FROM json_each('[' || replace(replace(json_quote(new.tags), '\\', '\u005c'), '\n', '","') || ']') AS item;
END;
CREATE TRIGGER run_tag_moved AFTER UPDATE OF state ON run WHEN new.tags != '' AND new.state != old.state
BEGIN
  UPDATE run_tag SET state = new.state WHERE number = new.number;
END;

-- Questions: the open ones of a kind, oldest first; all of a kind; those that are answered and not yet read; those
-- whose time comes.
DROP INDEX wait_open;
DROP INDEX wait_unread;
CREATE INDEX wait_open ON wait (kind, opened, id) WHERE decided IS NULL AND consumed IS NULL;
CREATE INDEX wait_by_kind ON wait (kind, opened, id);
CREATE INDEX wait_answered ON wait (run) WHERE decided IS NOT NULL AND consumed IS NULL;
CREATE INDEX wait_due ON wait (due) WHERE decided IS NULL AND consumed IS NULL AND due IS NOT NULL;

-- Cached results: the newest of all, and of a task's name.
CREATE INDEX cache_by_age ON cache (created, key);
CREATE INDEX cache_by_name ON cache (name, created, key);

-- Events of a run, which are removed with its payloads.
CREATE INDEX event_by_run ON event (run);
