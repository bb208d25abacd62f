-- What PostgreSQL says differently, or what only it needs: leases instead of file locks, locks of rows instead of one
-- writer at a time.

-- name: run_by_id_locked
SELECT run.*, keeper FROM run WHERE id = ? FOR NO KEY UPDATE

-- name: run_locked
SELECT run.*, keeper FROM run WHERE number = ? FOR NO KEY UPDATE

-- name: parent_locked
SELECT state, message FROM run WHERE id = ? FOR SHARE

-- name: deployment_is_paused
SELECT paused FROM deployment WHERE name = ? FOR SHARE

-- name: epoch_locked
SELECT epoch, keeper FROM run WHERE number = ? FOR NO KEY UPDATE

-- name: fence
SELECT fence(?, ?)

-- name: append_step_fenced
INSERT INTO step SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16
FROM run WHERE number = ?1 >> 32 AND epoch = ?17 AND keeper IS DISTINCT FROM 0 FOR SHARE NOWAIT

-- name: steps_by_id
SELECT * FROM step WHERE id = ANY(?) ORDER BY id

-- name: append_alone
WITH level AS (SELECT set_config('synchronous_commit', ?18, true) AS level)
INSERT INTO step
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16
FROM run JOIN level ON level IS NOT NULL
WHERE number = ?1 >> 32 AND epoch = ?17 AND keeper IS DISTINCT FROM 0 FOR SHARE OF run
RETURNING id

-- name: append_together
WITH level AS (SELECT set_config('synchronous_commit', ?18, true) AS level)
INSERT INTO step
SELECT new.id, event, kind, new.name, scope, key, branch, occurrence, effects, effect, attempt, batch, new.started,
       new.ended, value, detail
FROM unnest(?1::bigint[], ?2::text[], ?3::text[], ?4::text[], ?5::bytea[], ?6::bytea[], ?7::bytea[], ?8::bigint[],
            ?9::bigint[], ?10::bigint[], ?11::bigint[], ?12::bigint[], ?13::double precision[],
            ?14::double precision[], ?15::bytea[], ?16::bytea[], ?17::bigint[])
  AS new (id, event, kind, name, scope, key, branch, occurrence, effects, effect, attempt, batch, started, ended, value,
          detail, owned_at)
JOIN run ON run.number = new.id >> 32 AND run.epoch = owned_at AND keeper IS DISTINCT FROM 0
JOIN level ON level IS NOT NULL
FOR SHARE OF run
RETURNING id

-- name: due_runs
SELECT run.* FROM (
  SELECT number FROM (
    SELECT number FROM run WHERE number > ?1 AND state IN ('PENDING', 'RUNNING', 'CANCELLING')
      AND flow != ALL(?2::text[]) AND (keeper IS NULL OR keeper NOT IN (SELECT id FROM live_keeper))
    ORDER BY number LIMIT ?4) AS ready
  UNION
  SELECT number FROM run WHERE state = 'PAUSED' AND owner != '' AND number > ?1
  UNION
  SELECT run FROM wait WHERE decided IS NOT NULL AND consumed IS NULL AND run > ?1
  UNION
  SELECT run FROM wait WHERE decided IS NULL AND consumed IS NULL AND due <= ?3 AND run > ?1
) AS moving JOIN run ON run.number = moving.number
WHERE run.state IN ('PENDING', 'RUNNING', 'CANCELLING', 'PAUSED') AND flow != ALL(?2::text[])
  AND (keeper IS NULL OR keeper NOT IN (SELECT id FROM live_keeper))
ORDER BY run.number LIMIT ?4

-- name: lock_free_runs
SELECT number FROM run
WHERE id = ANY(?::text[]) AND state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED') AND coalesce(keeper, 0) = 0
ORDER BY number FOR NO KEY UPDATE SKIP LOCKED

-- name: claim_runs
WITH wanted AS (
  SELECT run.number, run.epoch, run.owner, run.state, run.created, run.origins, run.fingerprint AS first_code,
         asked.fingerprint, asked.start,
         CASE WHEN run.state IN ('PAUSED', 'PENDING') THEN 'while it waited' ELSE '' END AS words
  FROM unnest(?1::text[], ?2::text[], ?3::bigint[]) AS asked (id, fingerprint, start) JOIN run USING (id)
  WHERE run.number = ANY(?4::bigint[])
), crashed AS (
  UPDATE life SET ended = ?7, "end" = 'crashed', message = wanted.words, account = NULL FROM wanted
  WHERE life.run = wanted.number AND life.number = wanted.epoch AND life."end" = 'running'
), kept AS (
  INSERT INTO life
  SELECT number, 1, created, owner, split_part(origins, ',', 1), first_code, 1, ?7, 'crashed', words, NULL
  FROM wanted WHERE epoch = 1 ON CONFLICT DO NOTHING
), begun AS (
  INSERT INTO life
  SELECT number, epoch + 1, ?7, ?5, '', fingerprint, (coalesce((SELECT max(id) FROM step
    WHERE step.id > wanted.number << 32 AND step.id < (wanted.number + 1) << 32), 0) & 4294967295) + 1,
    NULL, 'running', '', NULL
  FROM wanted
)
UPDATE run SET epoch = run.epoch + 1, owner = ?5, keeper = ?6,
               crashes = run.crashes + CASE WHEN run.state = 'RUNNING' AND run.owner != '' THEN 1 ELSE 0 END,
               started = CASE wanted.start WHEN 1 THEN coalesce(run.started, ?7) ELSE run.started END,
               state = CASE WHEN run.state = 'CANCELLING' OR wanted.start = 0 THEN run.state ELSE 'RUNNING' END,
               message = CASE WHEN run.state = 'CANCELLING' OR wanted.start = 0 THEN run.message ELSE '' END
FROM wanted WHERE run.number = wanted.number
RETURNING run.*

-- name: forked
SELECT run FROM fork WHERE run = ANY(?::bigint[])

-- name: keep_first_life
INSERT INTO life
SELECT number, 1, created, ?2, split_part(origins, ',', 1), fingerprint, 1, ?3, ?4, ?5, ?6 FROM run WHERE number = ?1
ON CONFLICT DO NOTHING

-- name: run_is_owned
SELECT 1 FROM run JOIN live_keeper ON live_keeper.id = run.keeper WHERE number = ?

-- name: claim_is_live
SELECT 1 FROM run JOIN live_keeper ON live_keeper.id = run.keeper WHERE number = ? AND epoch = ?

-- name: claim_is_kept
SELECT 1 FROM run JOIN keeper ON keeper.id = run.keeper WHERE number = ? AND epoch = ?

-- name: keeper_is_kept
SELECT 1 FROM keeper WHERE id = ?

-- name: keep_run
UPDATE run SET keeper = ? WHERE number = ?

-- name: let_go_of_run
UPDATE run SET keeper = NULL WHERE number = ? AND epoch = ? AND keeper = ?

-- name: let_go_of_runs
UPDATE run SET keeper = NULL WHERE keeper = ?

-- name: add_keeper
INSERT INTO keeper (owner, lease, expires) VALUES (?, ?, clock_seconds() + ?) RETURNING id

-- name: keeper_locked
SELECT 1 FROM keeper WHERE id = ? FOR KEY SHARE

-- name: renew_keeper
UPDATE keeper SET expires = clock_seconds() + lease WHERE id = ?

-- name: drop_keeper
DELETE FROM keeper WHERE id = ?

-- name: keeper_is_live
SELECT 1 FROM live_keeper WHERE id = ?

-- name: lapsed_keepers
SELECT id FROM keeper WHERE id NOT IN (SELECT id FROM live_keeper)

-- name: bury_keeper
DELETE FROM keeper WHERE id = ? AND id NOT IN (SELECT id FROM live_keeper)

-- name: orphan_runs
UPDATE run SET keeper = 0 WHERE keeper = ?

-- name: begin_once
INSERT INTO receipt VALUES (?, ?, clock_seconds())
ON CONFLICT (writer) DO UPDATE SET serial = excluded.serial, at = excluded.at WHERE receipt.serial < excluded.serial
RETURNING at

-- name: create_run_at_once
WITH once AS (
  INSERT INTO receipt SELECT ?1, ?2, clock_seconds() WHERE NOT EXISTS (SELECT 1 FROM run WHERE id = ?4)
    AND (CAST(?23 AS BIGINT) IS NULL OR EXISTS (SELECT 1 FROM keeper WHERE id = ?23 FOR KEY SHARE))
  ON CONFLICT (writer) DO UPDATE SET serial = excluded.serial, at = excluded.at WHERE receipt.serial < excluded.serial
  RETURNING set_config('synchronous_commit', ?3, true) AS level
)
INSERT INTO run (id, flow, name, entrypoint, parameters, fingerprint, origins, state, message, created, started,
                 ended, result, error, epoch, owner, cwd, interpreter, tags, crashes, parent, on_cancellation,
                 deployment, deployment_version, keeper)
SELECT ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, '', ?12, ?13, NULL, NULL, NULL, ?14, ?15, ?16, ?17, ?18, 0, ?19, ?20, ?21, ?22,
       ?23
FROM once WHERE level IS NOT NULL
RETURNING number

-- name: number_of_run
SELECT number FROM run WHERE id = ?

-- name: receipt
SELECT serial FROM receipt WHERE writer = ?

-- name: end_run
WITH ended AS (
  UPDATE run SET state = ?4, message = ?5, ended = coalesce(?6, clock_seconds()), result = ?7, error = ?8, keeper = NULL
  WHERE number = ?1 AND epoch = ?2 AND keeper = nullif(?3, 0) AND state = 'RUNNING'
  RETURNING number, epoch, created, owner, origins, fingerprint, ended
), uncached AS (
  DELETE FROM cache USING ended WHERE cache.run = ended.number AND private = 1
), unlocked AS (
  DELETE FROM cache_lock USING ended WHERE cache_lock.run = ended.number
), over AS (
  UPDATE life SET ended = ended.ended, "end" = ?9, message = ?5, account = ?10 FROM ended
  WHERE life.run = ended.number AND life.number = ended.epoch AND life."end" = 'running'
  RETURNING 1
), kept AS (
  INSERT INTO life
  SELECT number, 1, created, owner, split_part(origins, ',', 1), fingerprint, 1, ended, ?9, ?5, ?10 FROM ended
  WHERE epoch = 1 AND (?9 != 'completed' OR CAST(?10 AS BYTEA) IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM over)
  ON CONFLICT DO NOTHING
)
SELECT number FROM ended

-- name: run_has_ended
SELECT 1 FROM run WHERE number = ? AND epoch = ? AND state = ? AND keeper IS NULL

-- name: drop_receipts
DELETE FROM receipt WHERE writer = ? OR at < clock_seconds() - 86400

-- name: alone
SELECT pg_advisory_xact_lock(hashtext(current_schema()), CAST(? AS INTEGER))

-- name: announce
SELECT pg_notify(?, ?)

-- name: version
SELECT hashtextextended(CAST(pg_current_snapshot() AS TEXT), 0)

-- name: found_steps
SELECT id FROM step WHERE id = ANY(?)

-- name: drop_lapsed_keepers
DELETE FROM keeper WHERE expires < clock_seconds() - 86400 AND id NOT IN (SELECT keeper FROM run WHERE keeper IS NOT NULL)

-- name: prunable_locked
SELECT number FROM run
WHERE number > ? AND ended < ? AND NOT EXISTS (SELECT 1 FROM pruned WHERE pruned.run = run.number)
ORDER BY number LIMIT ? FOR NO KEY UPDATE OF run SKIP LOCKED
