-- What the authorization server knows. Times are microseconds since 1970.

-- +goose Up
CREATE TABLE customers (
  customer_id   TEXT    NOT NULL PRIMARY KEY,
  username      TEXT    NOT NULL UNIQUE,
  password_hash TEXT    NOT NULL, -- argon2id, as a PHC string
  otp_secret    TEXT    NOT NULL, -- base 32; a verifier of RFC 6238 has to know it
  -- The time step of the last one-time code that was accepted; none up to it is again (RFC 6238 §5.2).
  otp_step      INTEGER NOT NULL DEFAULT 0,
  create_time   INTEGER NOT NULL
) STRICT;

CREATE TABLE devices (
  device_id   TEXT    NOT NULL PRIMARY KEY,
  customer_id TEXT    NOT NULL REFERENCES customers (customer_id),
  name        TEXT    NOT NULL,
  serial      TEXT    NOT NULL UNIQUE,
  certificate BLOB    NOT NULL,
  key_digest  BLOB    NOT NULL UNIQUE, -- SHA-256 of the SubjectPublicKeyInfo: a key is of one device
  enrol_time  INTEGER NOT NULL,
  expire_time INTEGER NOT NULL,
  revoke_time INTEGER
) STRICT;

CREATE INDEX devices_by_customer ON devices (customer_id, enrol_time);

-- One log-in. The tokens themselves are nowhere: what is kept of the one refresh token that is good is its SHA-256.
CREATE TABLE sessions (
  session_id     TEXT    NOT NULL PRIMARY KEY,
  device_id      TEXT    NOT NULL REFERENCES devices (device_id),
  scope          TEXT    NOT NULL,
  otp            INTEGER NOT NULL, -- 1 when a one-time code was proven
  auth_time      INTEGER NOT NULL,
  expire_time    INTEGER NOT NULL, -- whatever happens
  -- The authorization code that begins it, and until when that is good.
  code_digest    BLOB    NOT NULL UNIQUE,
  code_challenge TEXT    NOT NULL,
  code_until     INTEGER NOT NULL,
  code_used      INTEGER NOT NULL DEFAULT 0,
  -- The refresh token that is good, and until when.
  refresh_digest BLOB,
  refresh_until  INTEGER,
  -- How the refresh token was made from the one before, so that the answer to one request can be given once more.
  retry_from     BLOB, -- SHA-256 of the one before
  retry_key      BLOB, -- SHA-256 of the request's Idempotency-Key
  retry_salt     BLOB,
  retry_until    INTEGER,
  end_time       INTEGER
) STRICT;

CREATE INDEX sessions_by_device ON sessions (device_id);

-- What is not believed any more though its signature is good, in the order of the commits (see counters).
CREATE TABLE revocations (
  sequence    INTEGER NOT NULL PRIMARY KEY,
  kind        TEXT    NOT NULL CHECK (kind IN ('token', 'session', 'certificate')),
  subject     TEXT    NOT NULL,
  expire_time INTEGER NOT NULL,
  UNIQUE (kind, subject)
) STRICT;

CREATE TABLE counters (
  name TEXT    NOT NULL PRIMARY KEY,
  last INTEGER NOT NULL
) STRICT;
INSERT INTO counters (name, last) VALUES ('revocations', 0);

-- A key is published when it is made, signs from sign_from to sign_until, and is published until expire_time. One of each use signs, and one waits.
CREATE TABLE signing_keys (
  key_id      TEXT    NOT NULL PRIMARY KEY,
  purpose     TEXT    NOT NULL CHECK (purpose IN ('access', 'transaction')),
  private_key BLOB    NOT NULL, -- PKCS #8
  create_time INTEGER NOT NULL,
  sign_from   INTEGER,
  sign_until  INTEGER,
  expire_time INTEGER
) STRICT;

CREATE TABLE device_authorities (
  certificate BLOB    NOT NULL PRIMARY KEY,
  private_key BLOB    NOT NULL, -- PKCS #8
  create_time INTEGER NOT NULL
) STRICT;

-- What customers asked for that may take longer than a transaction token lives.
CREATE TABLE transactions (
  transaction_id TEXT    NOT NULL PRIMARY KEY,
  customer_id    TEXT    NOT NULL,
  device_id      TEXT    NOT NULL,
  scope          TEXT    NOT NULL,
  context        TEXT    NOT NULL, -- a JSON object of texts
  requester      TEXT    NOT NULL, -- a SPIFFE ID
  create_time    INTEGER NOT NULL
) STRICT;

CREATE INDEX transactions_by_age ON transactions (create_time);

-- +goose StatementBegin
CREATE TRIGGER devices_stay_revoked BEFORE UPDATE ON devices WHEN OLD.revoke_time IS NOT NULL
BEGIN
  SELECT RAISE(ABORT, 'a revoked device does not change');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER sessions_stay_ended BEFORE UPDATE ON sessions WHEN OLD.end_time IS NOT NULL
BEGIN
  SELECT RAISE(ABORT, 'an ended session does not change');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER transactions_stay BEFORE UPDATE ON transactions
BEGIN
  SELECT RAISE(ABORT, 'what a customer asked for does not change');
END;
-- +goose StatementEnd
