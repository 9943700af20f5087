package verify_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
	"github.com/countersign-mesh/countersign/services/ledger/internal/verify"
)

func TestBooksInOrderAreSound(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		keep(t, dsn)
		r := check(t, dsn)
		if !r.Sound || len(r.Faults) != 0 {
			t.Errorf("faults: %+v", r.Faults)
		}
		if r.Transfers != 6 || r.Entries != 14 || r.Balances != 6 || (r.Holds != verify.Holds{Active: 1, Captured: 1, Released: 1}) {
			t.Errorf("it counts %+v", r)
		}
		var sums []string
		for _, s := range r.Sums {
			sums = append(sums, fmt.Sprint(s.Currency, s.Minor))
		}
		if diff := cmp.Diff([]string{"EUR0", "USD0"}, sums); diff != "" {
			t.Errorf("sums (-want +got):\n%s", diff)
		}
	})
}

func TestEmptyBooksAreSound(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s, err := store.Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if r := check(t, dsn); !r.Sound {
			t.Errorf("faults: %+v", r.Faults)
		}
	})
}

// The ledger goes on meanwhile, and what it wrote last is only in the -wal file.
func TestBooksOfALedgerThatRunsAreChecked(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		keep(t, dsn)
		s, err := store.Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		for i := range 10 {
			if _, err := s.Post(t.Context(), pay(fmt.Sprint("more-", i), cash, account(4), 1)); err != nil {
				t.Fatal(err)
			}
			if r := check(t, dsn); !r.Sound || r.Transfers != int64(7+i) {
				t.Errorf("after %d more: %+v", i+1, r)
			}
		}
	})
}

func TestACopyIsChecked(t *testing.T) {
	t.Parallel()
	_, content := kept(t)
	copied := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(copied, content, 0o400); err != nil {
		t.Fatal(err)
	}
	if r := check(t, "sqlite:"+copied); !r.Sound || r.Transfers != 6 {
		t.Errorf("the copy: %+v", r)
	}
	if after, err := os.ReadFile(copied); err != nil || !slices.Equal(after, content) {
		t.Errorf("the copy was changed: %v", err)
	}
}

// Each row is somebody who can write the database, and changes this and nothing else.
func TestTamperingIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	_, whole := kept(t)
	one, two, three := account(1), account(2), account(3)
	type place struct {
		kind verify.Kind
		text string
	}
	tests := map[string]struct {
		statement string
		want      []place
		sqlite    bool // PostgreSQL has no way to do it, or none to notice
	}{
		"an amount that grew": {"UPDATE entries SET minor_units = 1000 WHERE minor_units = 100", []place{
			{verify.Unbalanced, "transfer deposit-1 sums to 900 in EUR"},
			{verify.Digest, "transfer deposit-1"},
			{verify.Chain, "account " + one + " in EUR: entry 2 of 1000 leaves 100, and it was 0"},
			{verify.Balance, "account " + one},
		}, false},
		"a transfer that was doubled, and all that follows from it": {`UPDATE entries SET minor_units = 2 * minor_units, balance_after = balance_after + CASE WHEN account_id = 'bank-cash' THEN -7 ELSE 7 END
			WHERE transfer_id = 'deposit-3'; UPDATE balances SET minor_units = minor_units + 7 WHERE account_id = '` + three + `';
			UPDATE balances SET minor_units = minor_units - 7 WHERE account_id = 'bank-cash' AND currency_code = 'EUR'`, []place{
			{verify.Digest, "transfer deposit-3"},
		}, false},
		"two payees that were swapped": {"UPDATE entries SET account_id = CASE account_id WHEN '" + one + "' THEN '" + two + "' ELSE '" + one + "' END WHERE transfer_id = 'payment-1'", []place{
			{verify.Digest, "transfer payment-1"}, {verify.Chain, "account " + one}, {verify.Balance, "account " + two},
		}, false},
		"two entries that were swapped in time": {"UPDATE entries SET sequence = -sequence WHERE sequence IN (2, 5); UPDATE entries SET sequence = 7 + sequence WHERE sequence < 0", []place{
			{verify.Chain, "account " + one},
		}, false},
		"an entry that was removed": {"DELETE FROM entries WHERE minor_units = 30", []place{
			{verify.Unbalanced, "transfer payment-1 sums to -30"},
			{verify.Unbalanced, "transfer payment-1 has 1 entries"},
			{verify.Digest, "payment-1"},
			{verify.Balance, "account " + two},
			{verify.Chain, "account " + two},
		}, false},
		"an entry that was added": {"INSERT INTO entries (transfer_id, account_id, currency_code, minor_units, balance_after) VALUES ('deposit-3', '" + three + "', 'CHF', 5, 5)", []place{
			{verify.Unbalanced, "transfer deposit-3 sums to 5 in CHF"}, {verify.Digest, "deposit-3"}, {verify.Balance, "account " + three + " in CHF: there is no balance"},
		}, false},
		"the entries of a transfer that were removed": {"DELETE FROM entries WHERE transfer_id = 'deposit-3'", []place{
			{verify.Unbalanced, "transfer deposit-3 has 0 entries"}, {verify.Digest, "deposit-3"}, {verify.Balance, "account " + three},
		}, false},
		"the last transfer, which was removed with all that follows from it": {`DELETE FROM entries WHERE transfer_id = 'deposit-3'; DELETE FROM transfers WHERE transfer_id = 'deposit-3';
			DELETE FROM balances WHERE account_id = '` + three + `'; UPDATE balances SET minor_units = minor_units + 7 WHERE account_id = 'bank-cash' AND currency_code = 'EUR'`, []place{
			{verify.Numbering, "entries: 14 were numbered, 12 are there; the first that is not there is number 13"},
		}, true},
		"the row of a transfer that was removed": {"DELETE FROM transfers WHERE transfer_id = 'payment-2'", []place{
			{verify.Orphan, "2 entries, the first of number 11, are of transfer payment-2"}, {verify.Orphan, "hold hold-captured was captured by transfer payment-2, which"},
		}, false},
		"a transfer that was added without entries": {"INSERT INTO transfers SELECT 'gift-0001', digest, description, post_time FROM transfers WHERE transfer_id = 'deposit-1'", []place{
			{verify.Unbalanced, "transfer gift-0001 has 0 entries"}, {verify.Digest, "gift-0001"},
		}, false},
		"a transfer under another name": {"UPDATE transfers SET transfer_id = 'deposit-9' WHERE transfer_id = 'deposit-3'; UPDATE entries SET transfer_id = 'deposit-9' WHERE transfer_id = 'deposit-3'", []place{
			{verify.Digest, "transfer deposit-9"},
		}, false},
		"a description":                           {"UPDATE transfers SET description = 'gift' WHERE transfer_id = 'deposit-3'", []place{{verify.Digest, "transfer deposit-3"}}, false},
		"a digest":                                {"UPDATE transfers SET digest = (SELECT digest FROM transfers WHERE transfer_id = 'deposit-1') WHERE transfer_id = 'deposit-3'", []place{{verify.Digest, "transfer deposit-3"}}, false},
		"another currency":                        {"UPDATE entries SET currency_code = 'USD' WHERE transfer_id = 'deposit-3'", []place{{verify.Digest, "transfer deposit-3"}, {verify.Balance, three + " in USD: there is no balance"}}, false},
		"a balance that was written by itself":    {"UPDATE balances SET minor_units = 77 WHERE account_id = '" + three + "'", []place{{verify.Balance, "account " + three + " in EUR: the balance is 77, and the entries sum to 7"}}, false},
		"a balance that was removed":              {"DELETE FROM balances WHERE account_id = '" + one + "' AND currency_code = 'EUR'", []place{{verify.Balance, "account " + one + " in EUR: there is no balance, and the entries sum to 72"}, {verify.Held, one}}, false},
		"a balance of an account without entries": {"INSERT INTO balances VALUES ('acc-x', 'EUR', 7, 0)", []place{{verify.Balance, "account acc-x in EUR: the balance is 7, and the entries sum to 0"}}, false},
		"what is held":                            {"UPDATE balances SET held = 19 WHERE account_id = '" + one + "' AND currency_code = 'EUR'", []place{{verify.Held, "account " + one + " in EUR: 19 is held, and its 1 active holds sum to 20"}}, false},
		"an active hold that was removed":         {"DELETE FROM holds WHERE state = 'active'", []place{{verify.Held, "its 0 active holds sum to 0"}}, false},
		"an active hold that grew":                {"UPDATE holds SET minor_units = 21 WHERE state = 'active'", []place{{verify.Held, "its 1 active holds sum to 21"}}, false},
		"an active hold that was released":        {"UPDATE holds SET state = 'released', end_time = create_time WHERE state = 'active'", []place{{verify.Held, one}}, false},
		"a released hold that is active":          {"UPDATE holds SET state = 'active', end_time = NULL WHERE state = 'released'", []place{{verify.Held, "its 2 active holds sum to 25"}}, false},
		"a hold that pays for another transfer": {"UPDATE holds SET transfer_id = 'deposit-1' WHERE state = 'captured'", []place{
			{verify.Capture, "transfer deposit-1 has captured hold hold-captured, and takes nothing from " + two}, {verify.Digest, "deposit-1"}, {verify.Digest, "payment-2"},
		}, false},
		"a captured hold that was released": {"UPDATE holds SET state = 'released', transfer_id = NULL WHERE state = 'captured'", []place{{verify.Digest, "transfer payment-2"}}, false},
		"a captured hold of less":           {"UPDATE holds SET minor_units = 9 WHERE state = 'captured'", []place{{verify.Capture, "transfer payment-2 takes 10 from " + two + " in EUR, more than hold hold-captured, of 9"}}, false},
		"a transfer with two holds": {"UPDATE holds SET state = 'captured', transfer_id = 'payment-2' WHERE state = 'released'", []place{
			{verify.Capture, "transfer payment-2 has captured hold hold-captured and hold hold-released"}, {verify.Digest, "payment-2"},
		}, false},
		"a captured hold without its transfer": {"UPDATE holds SET transfer_id = NULL WHERE state = 'captured'", []place{{verify.Content, "hold hold-captured is captured, and the transfer that captured it is \"\""}, {verify.Digest, "payment-2"}}, true},
		"a hold in a state that is none":       {"UPDATE holds SET state = 'lost' WHERE state = 'released'", []place{{verify.Content, `hold hold-released: the books are damaged: a hold's state is "lost"`}}, true},
		"an active hold with an end":           {"UPDATE holds SET end_time = 1 WHERE state = 'active'", []place{{verify.Content, "hold hold-active is active, and has an end: true"}}, true},
		"a hold of nothing":                    {"UPDATE holds SET minor_units = -5 WHERE state = 'released'", []place{{verify.Content, "hold hold-released"}}, true},
		"a customer below zero":                {"UPDATE balances SET minor_units = -5 WHERE account_id = '" + three + "'", []place{{verify.Overdraft, "account " + three + " in EUR: the balance is -5, and 0 is held"}}, true},
		"an entry below zero":                  {"UPDATE entries SET balance_after = -5 WHERE account_id = '" + three + "'", []place{{verify.Overdraft, "account " + three + " in EUR: entry 14 leaves -5"}, {verify.Chain, three}}, true},
		"sums that leave 64 bits": {"UPDATE entries SET minor_units = 9223372036854775807", []place{
			{verify.Unbalanced, "transfer deposit-1 sums to 18446744073709551614 in EUR"}, {verify.Chain, "entry 2 of 9223372036854775807"},
		}, false},
		"the least amount that there is": {"UPDATE entries SET minor_units = -9223372036854775807 - 1 WHERE minor_units < 0; UPDATE holds SET minor_units = 9223372036854775807", []place{
			{verify.Unbalanced, "transfer deposit-1 sums to -9223372036854775708"}, {verify.Capture, "payment-2"},
		}, false},
		"a table whose constraint is another": {"PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'minor_units <> 0', 'minor_units <> 8') WHERE name = 'entries'", []place{
			{verify.Schema, "table entries is not as the ledger made it"},
		}, true},
		"a text with control characters": {"UPDATE transfers SET transfer_id = 'x' || char(27) || '[2J' WHERE transfer_id = 'deposit-3'", []place{
			{verify.Orphan, "deposit-3"}, {verify.Unbalanced, "transfer x\uFFFD[2J has 0 entries"},
		}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databasetest.Each(t, func(t *testing.T, dsn string) {
				if path, sqlite := strings.CutPrefix(dsn, "sqlite:"); !sqlite {
					if tt.sqlite {
						return
					}
					keep(t, dsn)
				} else if err := os.WriteFile(path, whole, 0o600); err != nil {
					t.Fatal(err)
				}
				tamper(t, dsn, strings.Split(tt.statement, ";")...)
				r := check(t, dsn)
				if r.Sound {
					t.Fatal("the report says that the books are in order")
				}
				for _, want := range tt.want {
					if !slices.ContainsFunc(r.Faults, func(f verify.Fault) bool {
						return f.Kind == want.kind && slices.ContainsFunc(f.Places, func(p string) bool { return strings.Contains(p, want.text) })
					}) {
						t.Errorf("no fault of kind %s says %q: %+v", want.kind, want.text, r.Faults)
					}
				}
			})
		})
	}
}

// What guards the books from a later change.
func TestGuardsThatAreOffAreFound(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ kind, statement, want string }{
		"a trigger that is gone":          {"sqlite", "DROP TRIGGER entries_update", "trigger entries_update is missing"},
		"a trigger that does nothing":     {"sqlite", "DROP TRIGGER entries_update; CREATE TRIGGER entries_update BEFORE UPDATE ON entries BEGIN SELECT 1; END", "trigger entries_update is not as the ledger made it"},
		"a trigger that does more":        {"sqlite", "CREATE TRIGGER gift AFTER INSERT ON entries BEGIN SELECT 1; END", "trigger gift is not of the ledger"},
		"an index that is gone":           {"sqlite", "DROP INDEX entries_by_account", "index entries_by_account is missing"},
		"a trigger that was dropped":      {"postgres", "DROP TRIGGER entries_change ON entries", "trigger entries_change on entries is missing"},
		"a trigger that is off":           {"postgres", "ALTER TABLE transfers DISABLE TRIGGER transfers_change", "trigger transfers_change on transfers is missing, off"},
		"a function that refuses nothing": {"postgres", "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'", "function refuse_change is missing"},
		"a constraint that was dropped":   {"postgres", "ALTER TABLE entries DROP CONSTRAINT no_overdraft", "constraint no_overdraft is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn, driver := "", tt.kind
			if tt.kind == "sqlite" {
				dsn = databasetest.SQLite(t)
			} else {
				dsn, driver = databasetest.Postgres(t), "pgx"
			}
			keep(t, dsn)
			db, err := sql.Open(driver, strings.TrimPrefix(dsn, "sqlite:"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			if _, err := db.ExecContext(t.Context(), tt.statement); err != nil {
				t.Fatal(err)
			}
			r := check(t, dsn)
			if diff := cmp.Diff([]verify.Kind{verify.Schema}, kinds(r)); diff != "" {
				t.Fatalf("kinds of faults (-want +got):\n%s", diff)
			}
			if got := r.Faults[0].Places[0]; !strings.Contains(got, tt.want) {
				t.Errorf("%q does not say %q", got, tt.want)
			}
		})
	}
}
