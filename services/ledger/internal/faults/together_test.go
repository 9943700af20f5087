package faults_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// ATTACKS 62, 63: overdraft and write skew under concurrency, and one ID from many at once, have one effect, with two processes over the
// same books.
func TestManyAtOnceInTwoProcessesHaveOneEffect(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, calls []caller) {
		group := 0
		for name, attack := range attacks {
			for range scaled(10, 50) {
				group++
				if err := attack(t.Context(), &target{calls, group}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		mustBeInOrder(t, calls[0])
	})
}

// eachPair runs a test for each kind of database, with two processes over the same books.
func eachPair(t *testing.T, f func(t *testing.T, calls []caller)) {
	t.Helper()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		f(t, []caller{newProcess(t, dsn, "").call, newProcess(t, dsn, "").call})
	})
}

// ATTACKS 62, 63: the attacks notice books with a fault, and a database that does less than it is asked for.
func TestTheAttacksNoticeAFault(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{answersEarly, losesUpdates} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			dsn := databasetest.SQLite(t)
			mustNotice(t, []caller{newProcess(t, dsn, fault).call, newProcess(t, dsn, fault).call})
		})
	}
	t.Run("transactions are not serializable", func(t *testing.T) {
		t.Parallel()
		dsn := newProxy(t, databasetest.Postgres(t), func(text string) (string, cut) {
			return strings.Replace(text, "isolation level serializable", "isolation level read committed", 1), never
		})
		mustNotice(t, []caller{newProcess(t, dsn, "").call, newProcess(t, dsn, "").call})
	})
}

// mustNotice lets the attacks at books with a fault until one of them fails.
func mustNotice(t *testing.T, calls []caller) {
	t.Helper()
	const tries = 20
	for n := range tries {
		noticed := false
		for i, name := range slices.Sorted(maps.Keys(attacks)) {
			if err := attacks[name](t.Context(), &target{calls, n*len(attacks) + i}); err != nil {
				t.Logf("%s: %v", name, err)
				noticed = true
			}
		}
		if noticed {
			return
		}
	}
	t.Errorf("no attack noticed the fault in %d tries", tries)
}
