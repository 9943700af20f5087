package faults_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

const (
	// operations are in one history.
	operations = 2000
	// crashes happen in it.
	crashes = 3
)

// ATTACKS 61 to 63: whatever happens to the process and to the database, what clients see is what they would see of books that do one thing
// after the other, each at one moment between the question and the answer.
func TestHistoriesWithCrashesAreLinearizable(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		p := newProcess(t, databasetest.SQLite(t), "")
		checkHistories(t, p, func(n int) { p.crash(t, n%2 == 0) })
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		s := databasetest.StartServer(t)
		dsn, err := s.Create(t.Context(), "books")
		if err != nil {
			t.Fatal(err)
		}
		p := newProcess(t, dsn, "")
		checkHistories(t, p, func(n int) {
			if n%(5*crashes) == 1 { // the server, with the process alive
				restart(t, s)
				return
			}
			p.crash(t, n%2 == 0)
		})
	})
}

// checkHistories records histories and checks them. crash is told the how-manieth crash it is.
func checkHistories(t *testing.T, p *process, crash func(n int)) {
	t.Helper()
	var recording, checking time.Duration
	count, crashed, repeated := scaled(25, 50), 0, 0
	for n := range count {
		marks := make([]int, crashes)
		for i := range marks {
			marks[i] = 1 + rand.IntN(operations*9/10)
		}
		begin := time.Now()
		all := record(t, p.call, n*groups, operations, marks, func() { crash(crashed); crashed++ })
		recording += time.Since(begin)
		for _, o := range all {
			if as[answer](o.Output).Attempts > 1 {
				repeated++
			}
		}
		begin = time.Now()
		if err := linearizable(t, all); err != nil {
			t.Fatalf("history %d: %v", n, err)
		}
		checking += time.Since(begin)
	}
	t.Logf("%d histories with %d crashes; %d operations were sent more than once; recorded in %v, checked in %v",
		count, crashed, repeated, recording.Round(time.Millisecond), checking.Round(time.Millisecond))
	if repeated == 0 {
		t.Error("no crash met an operation on its way")
	}
	mustBeInOrder(t, p.call)
}

// mustBeInOrder checks all the books and returns what is in them.
func mustBeInOrder(t *testing.T, call caller) answer {
	t.Helper()
	a, err := call(t.Context(), op{Kind: check})
	if err != nil || a.Code != done || !a.Sums.Balanced() || a.Sums.Transfers == 0 {
		t.Fatalf("the books: %v, %+v: %s", err, a.Sums, a.Text)
	}
	return a
}

// restart kills a database server and starts it again.
func restart(t *testing.T, s *databasetest.Server) {
	t.Helper()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := startPatiently(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// ATTACKS 61, 62: the checker finds what it is there to find.
func TestAFaultMakesAHistoryThatIsNotLinearizable(t *testing.T) {
	t.Parallel()
	for _, fault := range faults {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			p := newProcess(t, databasetest.SQLite(t), fault)
			const tries = 10
			for n := range tries {
				all := record(t, p.call, n*groups, operations/4, []int{operations / 8}, func() { p.crash(t, true) })
				if result := porcupine.CheckOperationsTimeout(linear(), all, checkTimeout); result == porcupine.Illegal {
					return
				}
			}
			t.Errorf("%d histories of books with this fault were linearizable", tries)
		})
	}
}
