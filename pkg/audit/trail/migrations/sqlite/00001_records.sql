-- +goose Up

-- What the servers of the mesh decided, and how much of it was lost. A row is never changed and never goes away, and its
-- position is its place in the one order of all rows: 1, 2, 3 and so on.
--
-- Times are microseconds since 1970-01-01 UTC. A column that says nothing about a row's kind is NULL.
CREATE TABLE records (
    position       INTEGER PRIMARY KEY AUTOINCREMENT,
    store_time     INTEGER NOT NULL,
    -- The server that sent it, by its SVID; the run of its process; the record's number in it.
    server_id      TEXT NOT NULL CHECK (server_id <> ''),
    run_id         TEXT NOT NULL CHECK (length(run_id) = 32),
    sequence       INTEGER NOT NULL CHECK (sequence > 0),
    kind           TEXT NOT NULL CHECK (kind IN ('decision', 'gap')),
    -- When the decision was made; when the first and the last of a gap were.
    start_time     INTEGER NOT NULL,
    end_time       INTEGER NOT NULL,
    lost_count     INTEGER CHECK (lost_count > 0),
    decision_id    TEXT CHECK (length(decision_id) = 32),
    peer_id        TEXT,
    peer_serial    TEXT,
    method         TEXT,
    verdict        TEXT CHECK (verdict IN ('allowed', 'denied')),
    rule           TEXT,
    reason         TEXT,
    policy_version TEXT,
    -- NULL when the call had none.
    trace_id       TEXT CHECK (length(trace_id) = 32),
    UNIQUE (server_id, run_id, sequence),
    CHECK ((kind = 'gap') = (lost_count IS NOT NULL)),
    CHECK ((kind = 'decision') = (decision_id IS NOT NULL AND peer_id IS NOT NULL AND peer_serial IS NOT NULL
        AND method IS NOT NULL AND verdict IS NOT NULL AND rule IS NOT NULL AND reason IS NOT NULL
        AND policy_version IS NOT NULL))
) STRICT;

CREATE INDEX records_decision_id ON records (decision_id) WHERE decision_id IS NOT NULL;
CREATE INDEX records_peer_id ON records (peer_id) WHERE peer_id IS NOT NULL;
CREATE INDEX records_trace_id ON records (trace_id) WHERE trace_id IS NOT NULL;
CREATE INDEX records_denied ON records (verdict) WHERE verdict = 'denied';

-- +goose StatementBegin
CREATE TRIGGER records_are_not_changed BEFORE UPDATE ON records BEGIN
    SELECT RAISE(ABORT, 'audit records are never changed');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER records_are_not_deleted BEFORE DELETE ON records BEGIN
    SELECT RAISE(ABORT, 'audit records are never deleted');
END;
-- +goose StatementEnd

-- INSERT OR REPLACE deletes the row that is in its way without asking the trigger above
-- (https://sqlite.org/lang_conflict.html), so nothing may be in the way.
-- +goose StatementBegin
CREATE TRIGGER records_are_not_replaced BEFORE INSERT ON records BEGIN
    SELECT RAISE(ABORT, 'audit records are never replaced')
    WHERE EXISTS (SELECT 1 FROM records WHERE position = NEW.position)
       OR EXISTS (SELECT 1 FROM records
                  WHERE server_id = NEW.server_id AND run_id = NEW.run_id AND sequence = NEW.sequence);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER records_come_last AFTER INSERT ON records BEGIN
    SELECT RAISE(ABORT, 'audit records are only appended, without a hole')
    WHERE NEW.position <> 1 + coalesce((SELECT max(position) FROM records WHERE position < NEW.position), 0)
       OR EXISTS (SELECT 1 FROM records WHERE position > NEW.position);
END;
-- +goose StatementEnd
