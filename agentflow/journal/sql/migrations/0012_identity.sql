-- Tells this journal from every other: journals may share a store of large values.
CREATE TABLE identity (
  id TEXT NOT NULL
) STRICT;
INSERT INTO identity VALUES (lower(hex(randomblob(12))));
