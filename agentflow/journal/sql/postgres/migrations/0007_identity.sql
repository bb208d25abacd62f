-- Tells this journal from every other: journals may share a store of large values.
CREATE TABLE identity (
  id TEXT NOT NULL
);
INSERT INTO identity VALUES (substr(replace(gen_random_uuid()::text, '-', ''), 1, 24));
