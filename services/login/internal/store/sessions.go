package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/services/login/internal/customer"
	"github.com/countersign-mesh/countersign/services/login/internal/grant"
	"github.com/countersign-mesh/countersign/services/login/internal/revocation"
)

const sessionColumns = `session_id, device_id, scope, otp, auth_time, expire_time, code_digest, code_challenge, code_until, code_used,
	refresh_digest, refresh_until, retry_from, retry_key, retry_salt, retry_until, end_time`

func scanSession(row scanner) (s grant.Session, err error) {
	var scope string
	var otp, used int
	var auth, expires, code, refresh, retry, ended sql.NullInt64
	err = row.Scan(&s.ID, &s.DeviceID, &scope, &otp, &auth, &expires, &s.CodeDigest, &s.CodeChallenge, &code, &used,
		&s.RefreshDigest, &refresh, &s.RetryFrom, &s.RetryKey, &s.RetrySalt, &retry, &ended)
	s.Scopes, s.OTP, s.CodeUsed = strings.Fields(scope), otp != 0, used != 0
	s.AuthTime, s.Expires, s.CodeUntil = moment(auth), moment(expires), moment(code)
	s.RefreshUntil, s.RetryUntil, s.Ended = moment(refresh), moment(retry), moment(ended)
	return s, err
}

// AddSession implements grant.Store.
func (s *Store) AddSession(ctx context.Context, n grant.Session, proof customer.Proof) error {
	return database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		if err := useUp(ctx, tx, proof); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `
			INSERT INTO sessions (session_id, device_id, scope, otp, auth_time, expire_time, code_digest, code_challenge, code_until)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			n.ID, n.DeviceID, strings.Join(n.Scopes, " "), number(n.OTP), micros(n.AuthTime), micros(n.Expires),
			n.CodeDigest, n.CodeChallenge, micros(n.CodeUntil))
		return wrap("store a session", err)
	})
}

// SessionByCode implements grant.Store.
func (s *Store) SessionByCode(ctx context.Context, digest []byte, change func(*grant.Session)) error {
	return s.changeSession(ctx, `code_digest = $1`, digest, change)
}

// SessionByID implements grant.Store.
func (s *Store) SessionByID(ctx context.Context, id string, change func(*grant.Session)) error {
	return s.changeSession(ctx, `session_id = $1`, id, change)
}

func (s *Store) changeSession(ctx context.Context, where string, key any, change func(*grant.Session)) error {
	return database.InTx(ctx, s.db, func(tx *sql.Tx) error {
		session, err := scanSession(tx.QueryRowContext(ctx, `SELECT `+sessionColumns+` FROM sessions WHERE `+where, key))
		if errors.Is(err, sql.ErrNoRows) {
			return grant.ErrNoSession
		}
		if err != nil {
			return wrap("read a session", err)
		}
		over := !session.Ended.IsZero()
		change(&session)
		if over {
			return nil // it does not change
		}
		_, err = tx.ExecContext(ctx, `
			UPDATE sessions SET code_used = $2, refresh_digest = $3, refresh_until = $4, retry_from = $5, retry_key = $6, retry_salt = $7, retry_until = $8,
				end_time = $9 WHERE session_id = $1`,
			session.ID, number(session.CodeUsed), session.RefreshDigest, micros(session.RefreshUntil),
			session.RetryFrom, session.RetryKey, session.RetrySalt, micros(session.RetryUntil), micros(session.Ended))
		if err != nil || session.Ended.IsZero() {
			return wrap("change a session", err)
		}
		return revoke(ctx, tx, revocation.Revocation{
			Kind: revocation.Session, Subject: session.ID, Expires: session.Ended.Add(grant.AccessLifetime + grant.Leeway),
		})
	})
}
