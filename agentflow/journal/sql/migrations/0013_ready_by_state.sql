-- Runs that can move are merged from the index by state: one index less to write to with every run.
DROP INDEX run_ready;
