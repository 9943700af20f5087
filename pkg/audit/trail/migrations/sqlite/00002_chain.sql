-- +goose Up

-- What the verdict would be if the rules in shadow were enforced, and the rule that says so. NULL when none applies to the call.
ALTER TABLE records ADD COLUMN shadow_verdict TEXT CHECK (shadow_verdict IS NULL OR kind = 'decision' AND shadow_verdict IN ('allowed', 'denied'));
ALTER TABLE records ADD COLUMN shadow_rule TEXT CHECK (shadow_rule IS NULL OR kind = 'decision' AND shadow_rule <> '');

-- SHA-256 over the hash of the row before and all that is in this one; pkg/audit/chain says how. NULL in the rows that were there before
-- there was a chain: they stay as they are, and the first row with a hash seals them.
ALTER TABLE records ADD COLUMN hash BLOB CHECK (length(hash) = 32);

CREATE INDEX records_shadow ON records (shadow_verdict) WHERE shadow_verdict IS NOT NULL;

-- +goose StatementBegin
CREATE TRIGGER records_are_chained BEFORE INSERT ON records WHEN NEW.hash IS NULL BEGIN
    SELECT RAISE(ABORT, 'audit records are chained: this one has no hash');
END;
-- +goose StatementEnd
