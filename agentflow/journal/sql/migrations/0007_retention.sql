-- Runs whose payloads were removed, and when.
CREATE TABLE pruned (
  run INTEGER PRIMARY KEY,
  at REAL NOT NULL
) STRICT;
