-- What is listed is found by indexes, however much there is of it: the newest of each state, merged.
DROP INDEX run_by_flow;
CREATE INDEX run_by_flow ON run (flow, state, number);
DROP INDEX run_by_parent;
CREATE INDEX run_by_parent ON run (parent, number) WHERE parent != '';

-- Runs that can move; those that wait are found by their waits, unless their process has died.
DROP INDEX run_live;
CREATE INDEX run_ready ON run (number) WHERE state IN ('PENDING', 'RUNNING', 'CANCELLING');
CREATE INDEX run_lost ON run (number) WHERE state = 'PAUSED' AND owner != '';

-- Tags of runs, kept by triggers, so that a run without any costs nothing.
CREATE TABLE run_tag (
  number BIGINT NOT NULL,
  tag TEXT COLLATE "C" NOT NULL,
  flow TEXT COLLATE "C" NOT NULL,
  state TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (number, tag)
);
INSERT INTO run_tag
SELECT number, tag, flow, state FROM run, unnest(string_to_array(tags, E'\n')) AS tag WHERE tags != '';
CREATE INDEX run_tag_by_state ON run_tag (tag, state, number);
CREATE INDEX run_tag_by_flow ON run_tag (tag, flow, state, number);
CREATE FUNCTION add_run_tags() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO run_tag SELECT NEW.number, tag, NEW.flow, NEW.state FROM unnest(string_to_array(NEW.tags, E'\n')) AS tag;
  RETURN NULL;
END $$;
CREATE FUNCTION move_run_tags() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  UPDATE run_tag SET state = NEW.state WHERE number = NEW.number;
  RETURN NULL;
END $$;
CREATE TRIGGER run_tag_added AFTER INSERT ON run FOR EACH ROW WHEN (NEW.tags != '') EXECUTE FUNCTION add_run_tags();
CREATE TRIGGER run_tag_moved AFTER UPDATE OF state ON run FOR EACH ROW
  WHEN (NEW.tags != '' AND NEW.state != OLD.state) EXECUTE FUNCTION move_run_tags();

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
