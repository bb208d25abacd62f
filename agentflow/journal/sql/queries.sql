-- name: identity
SELECT id FROM identity

-- name: create_run
INSERT INTO run (id, flow, name, entrypoint, parameters, fingerprint, origins, state, message, created, started,
                 ended, result, error, epoch, owner, cwd, interpreter, tags, crashes, parent, on_cancellation,
                 deployment, deployment_version)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', ?, ?, NULL, NULL, NULL, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?)
RETURNING number

-- name: run_by_id
SELECT * FROM run WHERE id = ?

-- name: claim_run
UPDATE run SET epoch = epoch + 1, owner = ?1, crashes = crashes + ?3,
               started = CASE WHEN ?5 = 1 THEN coalesce(started, ?2) ELSE started END,
               state = CASE WHEN state = 'CANCELLING' OR ?5 = 0 THEN state ELSE 'RUNNING' END,
               message = CASE WHEN state = 'CANCELLING' OR ?5 = 0 THEN message ELSE '' END
WHERE number = ?4
RETURNING *

-- name: run_epoch
SELECT epoch FROM run WHERE number = ?

-- name: set_state
UPDATE run SET state = ?1, message = ?2, ended = ?3, result = ?4, error = ?5,
               owner = CASE WHEN ?6 = 1 AND CAST(?3 AS DOUBLE PRECISION) IS NULL THEN '' ELSE owner END,
               started = CASE WHEN ?1 IN ('RUNNING', 'FAILED') THEN coalesce(started, ?9) ELSE started END
WHERE number = ?7 AND epoch = ?8

-- name: bind_run
UPDATE run SET parameters = ?, name = CASE ? WHEN '' THEN name ELSE ? END, on_cancellation = ?
WHERE number = ? AND epoch = ?

-- name: deployment_is_paused
SELECT paused FROM deployment WHERE name = ?

-- name: put_deployment
INSERT INTO deployment VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?15)
ON CONFLICT (name) DO UPDATE SET
  flow = excluded.flow, entrypoint = excluded.entrypoint, parameters = excluded.parameters, schema = excluded.schema,
  origins = excluded.origins, tags = excluded.tags, description = excluded.description, version = excluded.version,
  concurrency_limit = excluded.concurrency_limit, collision_strategy = excluded.collision_strategy,
  paused = CASE WHEN ?16 = 1 THEN excluded.paused ELSE deployment.paused END,
  cwd = excluded.cwd, interpreter = excluded.interpreter,
  updated = CASE WHEN
    (deployment.flow, deployment.entrypoint, deployment.parameters, deployment.schema, deployment.origins,
     deployment.tags, deployment.description, deployment.version, deployment.concurrency_limit,
     deployment.collision_strategy, deployment.paused, deployment.cwd, deployment.interpreter)
    = (excluded.flow, excluded.entrypoint, excluded.parameters, excluded.schema, excluded.origins,
       excluded.tags, excluded.description, excluded.version, excluded.concurrency_limit,
       excluded.collision_strategy, CASE WHEN ?16 = 1 THEN excluded.paused ELSE deployment.paused END,
       excluded.cwd, excluded.interpreter)
    THEN deployment.updated ELSE excluded.updated END
RETURNING *

-- name: pause_deployment
UPDATE deployment SET paused = ?1, updated = CASE paused WHEN ?1 THEN updated ELSE ?2 END WHERE name = ?3 RETURNING *

-- name: drop_deployment
DELETE FROM deployment WHERE name = ?

-- name: deployment
SELECT * FROM deployment WHERE name = ?

-- name: release_run
UPDATE run SET owner = '' WHERE number = ? AND epoch = ? RETURNING state

-- name: add_origin
UPDATE run SET origins = ? WHERE number = ?

-- name: cancel
UPDATE run SET state = ?, message = ?, ended = ? WHERE number = ?

-- name: state_of
SELECT state, message FROM run WHERE id = ?

-- name: live_descendants
WITH RECURSIVE below (number, id) AS (
  SELECT number, id FROM run WHERE parent = ?1 AND parent != ''
  UNION
  SELECT run.number, run.id FROM run JOIN below ON run.parent = below.id AND run.parent != ''
)
SELECT * FROM run WHERE number IN (SELECT number FROM below)
  AND state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED') ORDER BY number

-- name: due_runs
WITH free AS NOT MATERIALIZED (
  SELECT number, state FROM run INDEXED BY run_by_state
  WHERE number > ?1 AND ((number << 24) | (epoch & 16777215)) NOT IN (SELECT value FROM json_each(?5))
    AND flow NOT IN (SELECT value FROM json_each(?3)))
SELECT run.* FROM (
  SELECT number FROM (
    SELECT * FROM (SELECT number FROM free WHERE state = 'PENDING' ORDER BY number LIMIT ?2) UNION ALL
    SELECT * FROM (SELECT number FROM free WHERE state = 'RUNNING' ORDER BY number LIMIT ?2) UNION ALL
    SELECT * FROM (SELECT number FROM free WHERE state = 'CANCELLING' ORDER BY number LIMIT ?2)) AS ready
  UNION
  SELECT number FROM run INDEXED BY run_lost WHERE state = 'PAUSED' AND owner != '' AND number > ?1
  UNION
  SELECT run FROM wait INDEXED BY wait_answered WHERE decided IS NOT NULL AND consumed IS NULL AND run > ?1
  UNION
  SELECT run FROM wait INDEXED BY wait_due WHERE decided IS NULL AND consumed IS NULL AND due <= ?4 AND run > ?1
) AS moving CROSS JOIN run ON run.number = moving.number
WHERE run.state IN ('PENDING', 'RUNNING', 'CANCELLING', 'PAUSED') AND flow NOT IN (SELECT value FROM json_each(?3))
ORDER BY run.number LIMIT ?2

-- name: append_step
INSERT INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: append_step_fenced
INSERT INTO step SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16
WHERE (SELECT epoch FROM run WHERE number = ?1 >> 32) = ?17

-- name: transactions
SELECT * FROM step WHERE id > ? AND id < ? AND kind = 'transaction' ORDER BY id

-- name: steps
SELECT * FROM step WHERE id > ? AND id < ? ORDER BY id LIMIT ?

-- name: open_wait
INSERT INTO wait VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, '', NULL)

-- name: withdraw_wait
UPDATE wait SET consumed = ? WHERE id = ? AND decided IS NULL

-- name: reopen_wait
UPDATE wait SET consumed = NULL WHERE id = ? AND decided IS NULL AND consumed IS NOT NULL

-- name: wait_by_id
SELECT * FROM wait WHERE id = ?

-- name: decide_wait
UPDATE wait SET decision = ?, decided = ?, allowed_digest = ? WHERE id = ? AND decided IS NULL

-- name: consume_wait
UPDATE wait SET consumed = ? WHERE id = ? AND consumed IS NULL

-- name: unread_waits
SELECT * FROM wait WHERE run = ? AND consumed IS NULL AND decided IS NOT NULL ORDER BY opened, id

-- name: insert_event
INSERT INTO event (run, name, payload, sent, taken_by) VALUES (?, ?, ?, ?, NULL) RETURNING id

-- name: first_untaken_event
SELECT id, payload FROM event WHERE run = ? AND name = ? AND taken_by IS NULL ORDER BY id LIMIT 1

-- name: take_event
UPDATE event SET taken_by = ? WHERE id = ?

-- name: first_waiting_for_event
SELECT id FROM wait WHERE run = ? AND name = ? AND kind = 'event' AND decided IS NULL AND consumed IS NULL ORDER BY opened, id LIMIT 1

-- name: cached
SELECT key, value, created, expires, run, run_id, task, name, parts, private FROM cache WHERE key = ?

-- name: put_cache
INSERT INTO cache (key, value, created, expires, run, run_id, task, name, parts, private)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, created = excluded.created, expires = excluded.expires,
  run = excluded.run, run_id = excluded.run_id, task = excluded.task, name = excluded.name, parts = excluded.parts,
  private = excluded.private

-- name: prune_cache
DELETE FROM cache WHERE key IN (SELECT key FROM cache WHERE expires <= ? ORDER BY expires, key LIMIT ?)

-- name: drop_private_cache
DELETE FROM cache WHERE run = ? AND private = 1

-- name: key_locks
SELECT key, run, epoch, step, above FROM cache_lock WHERE key = ? AND held = 1

-- name: inner_locks
SELECT key, run, epoch, step, above FROM cache_lock WHERE above = ?

-- name: put_lock
INSERT INTO cache_lock VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key, run, step) DO UPDATE SET epoch = excluded.epoch, above = excluded.above, held = excluded.held

-- name: drop_key_locks
DELETE FROM cache_lock WHERE key = ? AND held = 1

-- name: drop_lock
DELETE FROM cache_lock WHERE key = ? AND run = ? AND epoch = ? AND step = ?

-- name: drop_run_locks
DELETE FROM cache_lock WHERE run = ?

-- name: add_log
INSERT INTO log (run, at, level, logger, step, text, source) VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: logs
SELECT id, run, at, level, logger, step, text, source FROM log WHERE run = ? AND id > ? ORDER BY id LIMIT ?

-- name: put_limit
INSERT INTO concurrency_limit VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7)
ON CONFLICT (name) DO UPDATE SET slots = ?2, active = ?3, decay = ?4, collision_strategy = ?5, declared = ?6

-- name: limit_by_name
SELECT * FROM concurrency_limit WHERE name = ?

-- name: limits
SELECT * FROM concurrency_limit ORDER BY name

-- name: drop_limit
DELETE FROM concurrency_limit WHERE name = ?

-- name: drop_held_slots
DELETE FROM slot WHERE name = ? AND granted IS NOT NULL

-- name: spend_slots
UPDATE concurrency_limit SET spent = ?, spent_at = ? WHERE name = ?

-- name: add_slot
INSERT INTO slot VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: slots_of_claim
SELECT * FROM slot WHERE claim = ?

-- name: drop_claim
DELETE FROM slot WHERE claim = ?

-- name: grant_claim
UPDATE slot SET granted = ?1, expires = ?1 + lease WHERE claim = ?2

-- name: last_ticket
SELECT coalesce(max(ticket), 0) FROM slot WHERE name = ? AND granted IS NULL

-- name: next_waiting_slot
SELECT * FROM slot WHERE name = ? AND granted IS NULL AND ticket > ? ORDER BY ticket LIMIT 1

-- name: held_slots
SELECT * FROM slot WHERE name = ? AND granted IS NOT NULL

-- name: count_held_slots
SELECT CAST(coalesce(sum(slots), 0) AS BIGINT) FROM slot WHERE name = ? AND granted IS NOT NULL

-- name: waited_limits
SELECT DISTINCT name FROM slot WHERE granted IS NULL

-- name: granted_claims
SELECT DISTINCT claim FROM slot WHERE keeper = ? AND granted IS NOT NULL ORDER BY claim

-- name: renew_slots
UPDATE slot SET expires = ?1 + lease WHERE keeper = ?2

-- name: keep_first_life
INSERT OR IGNORE INTO life
SELECT number, 1, created, ?2, substr(origins, 1, instr(origins || ',', ',') - 1), fingerprint, 1, ?3, ?4, ?5, ?6
FROM run WHERE number = ?1

-- name: begin_life
INSERT INTO life
SELECT ?1, ?2, ?3, ?4, ?5, ?6,
       (coalesce((SELECT max(id) FROM step WHERE id > ?1 << 32 AND id < (?1 + 1) << 32), 0) & 4294967295) + 1,
       NULL, 'running', '', NULL

-- name: end_life
UPDATE life SET ended = ?, "end" = ?, message = ?, account = ? WHERE run = ? AND number = ? AND "end" = 'running'

-- name: lives
SELECT * FROM life WHERE run = ? ORDER BY number

-- name: reopen_run
UPDATE run SET state = 'PENDING', message = '', ended = NULL, result = NULL, error = NULL, owner = '', origins = ?
WHERE number = ?

-- name: insert_fork
INSERT INTO fork VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: forked
SELECT run FROM fork WHERE run IN (SELECT value FROM json_each(?))

-- name: fork_of
SELECT source, step, name, taken, changed, happened FROM fork WHERE run = ?

-- name: prunable
SELECT number FROM run
WHERE number > ? AND ended < ? AND NOT EXISTS (SELECT 1 FROM pruned WHERE pruned.run = run.number)
ORDER BY number LIMIT ?

-- name: size_of_steps
SELECT count(*), coalesce(sum(length(value)), 0) FROM step WHERE id > ? AND id < ? AND value IS NOT NULL

-- name: size_of_run
SELECT 1 + CAST(result IS NOT NULL AS INTEGER) + CAST(error IS NOT NULL AS INTEGER),
       length(parameters) + coalesce(length(result), 0) + coalesce(length(error), 0)
FROM run WHERE number = ?

-- name: count_logs
SELECT count(*) FROM log WHERE run = ?

-- name: prune_steps
UPDATE step SET value = NULL WHERE id > ? AND id < ? AND value IS NOT NULL

-- name: prune_run
UPDATE run SET parameters = ?, result = NULL, error = NULL WHERE number = ?

-- name: prune_logs
DELETE FROM log WHERE run = ?

-- name: prune_events
DELETE FROM event WHERE run = ?

-- name: mark_pruned
INSERT INTO pruned VALUES (?, ?)

-- name: pruned_at
SELECT at FROM pruned WHERE run = ?

-- name: add_api_key
INSERT INTO api_key VALUES (?, ?, ?, ?, NULL)

-- name: api_keys
SELECT id, name, created, revoked FROM api_key ORDER BY created, id

-- name: revoke_api_key
UPDATE api_key SET revoked = ? WHERE id = ? AND revoked IS NULL

-- name: api_key_by_digest
SELECT id, name, created, revoked FROM api_key WHERE digest = ? AND revoked IS NULL

-- name: add_session
INSERT INTO worker_session VALUES (?, ?, ?, ?, ?, ?)

-- name: sessions
SELECT * FROM worker_session ORDER BY opened, id

-- name: session_by_id
SELECT * FROM worker_session WHERE id = ?

-- name: drop_session
DELETE FROM worker_session WHERE id = ?

-- name: runs_of_owner
SELECT number, epoch FROM run
WHERE owner = ? AND state IN ('SCHEDULED', 'PENDING', 'RUNNING', 'PAUSED', 'CANCELLING')

-- name: reserve_answer
INSERT INTO answer VALUES (?, ?, NULL) ON CONFLICT DO NOTHING RETURNING serial

-- name: put_answer
UPDATE answer SET outcome = ? WHERE session = ? AND serial = ?

-- name: answer
SELECT outcome FROM answer WHERE session = ? AND serial = ?

-- name: drop_known_answers
DELETE FROM answer WHERE session = ? AND serial < ?

-- name: drop_answers
DELETE FROM answer WHERE session = ?
