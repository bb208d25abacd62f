-- Runs whose payloads were removed, and when.
CREATE TABLE pruned (
  run BIGINT PRIMARY KEY,
  at DOUBLE PRECISION NOT NULL
);
