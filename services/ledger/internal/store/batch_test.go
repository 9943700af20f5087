package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store/migrations"
)

// poison makes the database refuse every transfer whose description begins with "poison".
func poison(t *testing.T, dsn string) {
	t.Helper()
	statement := `CREATE TRIGGER poison BEFORE INSERT ON transfers WHEN NEW.description LIKE 'poison%'
		BEGIN SELECT RAISE(ABORT, 'poisoned'); END`
	if strings.HasPrefix(dsn, "postgres") {
		statement = "ALTER TABLE transfers ADD CONSTRAINT poisoned CHECK (description NOT LIKE 'poison%')"
	}
	db := openDatabase(t, dsn)
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func openDatabase(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := database.Open(t.Context(), dsn, migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // nothing that it has written is asked for
	return db
}

// A request that the database itself refuses, for whatever reason, takes nobody with it who shared its commit.
func TestOnePoisonedRequestDoesNotSpoilABatch(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		poison(t, dsn)
		const callers = 40
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				transfer := pay(fmt.Sprintf("payment-%d", i), cash, account(1), 1)
				if i%10 == 0 {
					transfer.Description = "poison"
				}
				if _, err := s.Post(t.Context(), transfer); (err != nil) != (i%10 == 0) {
					t.Errorf("caller %d: %v", i, err)
				} else if errors.Is(err, database.ErrOutcomeUnknown) || database.Unavailable(err) {
					t.Errorf("a poisoned transfer = %v, which looks like a failure of the database", err)
				}
			})
		}
		wg.Wait()
		if got := balance(t, s, account(1)); got != callers-callers/10 {
			t.Errorf("%d were posted, want %d", got, callers-callers/10)
		}
		mustBalance(t, s)
	})
}

// A mistake in the program costs the requests that it meets, not the process and all the others.
func TestAPanicInABatchIsAnError(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		var broken atomic.Bool
		s := openStore(t, dsn, store.WithClock(func() time.Time {
			if broken.Load() {
				panic("the clock stopped")
			}
			return time.Now()
		}))
		broken.Store(true)
		if _, err := s.Post(t.Context(), pay("deposit-1", cash, account(1), 5)); err == nil || !strings.Contains(err.Error(), "the clock stopped") {
			t.Errorf("Post = %v, want what the panic said", err)
		}
		broken.Store(false)
		mustPost(t, s, pay("deposit-1", cash, account(1), 5))
		if sums := mustBalance(t, s); sums.Transfers != 1 {
			t.Errorf("%d transfers, want 1", sums.Transfers)
		}
	})
}

// ATTACKS 64: the database goes away and comes back. What was answered is there, and what is asked meanwhile is answered with what is known.
func TestADatabaseThatGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	server := databasetest.StartServer(t)
	dsn, err := server.Create(t.Context(), "books")
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dsn)
	mustPost(t, s, pay("deposit-1", cash, account(1), 100))
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err == nil {
		t.Error("Ping found a database that is not there")
	}
	var lost atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := s.Post(t.Context(), pay(fmt.Sprintf("payment-%d", i), account(1), account(2), 1))
			if err == nil || !database.Unavailable(err) && !errors.Is(err, database.ErrOutcomeUnknown) {
				t.Errorf("Post without a database = %v", err)
			}
			lost.Add(1)
		})
	}
	wg.Wait()
	if err := server.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		mustPost(t, s, pay(fmt.Sprintf("payment-%d", i), account(1), account(2), 1))
	}
	if got := balance(t, s, account(2)); got != lost.Load() {
		t.Errorf("%d arrived, want %d", got, lost.Load())
	}
	mustBalance(t, s)
}

// Texts that not every database keeps are refused before they get there; all others come back as they were.
func TestTexts(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		s := openStore(t, dsn)
		for i, text := range []string{"", "a \"quoted\" \\ text", "new\nline\ttab", "<&>", "Zürich 東京 🏦", "\u2028\u007f\u0001", strings.Repeat("ä", 140), "'; DROP TABLE entries; --", "null", "[1]"} {
			transfer := pay(fmt.Sprintf("deposit-%d", i), cash, account(i), 1)
			transfer.Description = text
			mustPost(t, s, transfer)
			entries, _, err := s.Entries(t.Context(), account(i), 0, 1)
			if err != nil || len(entries) != 1 || entries[0].Description != text {
				t.Errorf("%q came back as %+v, %v", text, entries, err)
			}
			mustPost(t, s, transfer)
		}
		for _, text := range []string{"a\x00b", "\xff"} {
			transfer := pay("payment-1", cash, account(1), 1)
			transfer.Description = text
			if _, err := s.Post(t.Context(), transfer); !errors.Is(err, ledger.ErrInvalid) {
				t.Errorf("%q: Post = %v, want ErrInvalid", text, err)
			}
		}
	})
}
