-- Keys of workers that reach this journal through a server; only what a key is known by is stored.
CREATE TABLE api_key (
  id TEXT COLLATE "C" PRIMARY KEY,
  name TEXT COLLATE "C" NOT NULL,
  digest BYTEA NOT NULL UNIQUE,
  created DOUBLE PRECISION NOT NULL,
  revoked DOUBLE PRECISION
);

-- Those workers, as long as they are heard of. `number`: their keeper.
CREATE TABLE worker_session (
  id TEXT COLLATE "C" PRIMARY KEY,
  number BIGINT NOT NULL,
  owner TEXT COLLATE "C" NOT NULL,
  lease DOUBLE PRECISION NOT NULL,
  api_key TEXT COLLATE "C" NOT NULL,
  opened DOUBLE PRECISION NOT NULL
);

-- What their requests came to, until they say that they know it.
CREATE TABLE answer (
  session TEXT COLLATE "C" NOT NULL,
  serial BIGINT NOT NULL,
  outcome BYTEA,
  PRIMARY KEY (session, serial)
);
