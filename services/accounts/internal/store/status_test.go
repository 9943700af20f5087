package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

// Each status with each operation.
func TestStatusByOperation(t *testing.T) {
	t.Parallel()
	// How an account gets into a status.
	statuses := map[string][]op{
		"open":                nil,
		"frozen":              {{freeze, "", 1}},
		"unfrozen":            {{freeze, "", 1}, {unfreeze, "", 2}},
		"being closed":        {{begin, "mine", 1}},                       // until 11
		"given up":            {{begin, "mine", 1}, {abandon, "mine", 2}}, // which is open
		"closed":              {{begin, "mine", 1}, {finish, "mine", 2}},
		"frozen in its place": {{begin, "mine", 1}, {freeze, "", 11}},
	}
	table := []struct {
		status    string
		operation op
		want      string
	}{
		{"open", op{freeze, "", 5}, "frozen at 5"},
		{"open", op{unfreeze, "", 5}, "open"},
		{"open", op{begin, "mine", 5}, "being closed by mine until 15"},
		{"open", op{abandon, "mine", 5}, "open"},
		{"open", op{finish, "mine", 5}, "busy"},
		{"frozen", op{freeze, "", 5}, "frozen at 1"},
		{"frozen", op{unfreeze, "", 5}, "open"},
		{"frozen", op{begin, "mine", 5}, "frozen at 1"},
		{"frozen", op{abandon, "mine", 5}, "frozen at 1"},
		{"frozen", op{finish, "mine", 5}, "busy"},
		{"unfrozen", op{freeze, "", 5}, "frozen at 5"},
		{"unfrozen", op{begin, "mine", 5}, "being closed by mine until 15"},
		{"being closed", op{freeze, "", 10}, "busy"},
		{"being closed", op{freeze, "", 11}, "frozen at 11"}, // the attempt is overdue
		{"being closed", op{unfreeze, "", 5}, "being closed by mine until 11"},
		{"being closed", op{begin, "other", 5}, "being closed by mine until 15"}, // joins it
		{"being closed", op{begin, "other", 0}, "being closed by mine until 11"}, // and never shortens it
		{"being closed", op{abandon, "other", 5}, "being closed by mine until 11"},
		{"being closed", op{abandon, "mine", 5}, "open"},
		{"being closed", op{finish, "other", 5}, "busy"},
		{"being closed", op{finish, "mine", 5}, "closed at 5"},
		{"being closed", op{finish, "mine", 50}, "closed at 50"}, // overdue, but nobody has given it up
		{"given up", op{finish, "mine", 5}, "busy"},
		{"given up", op{begin, "other", 5}, "being closed by other until 15"},
		{"frozen in its place", op{finish, "mine", 11}, "busy"},
		{"frozen in its place", op{abandon, "mine", 11}, "frozen at 11"},
		{"closed", op{freeze, "", 5}, "refused: closed"},
		{"closed", op{unfreeze, "", 5}, "refused: closed"},
		{"closed", op{begin, "other", 5}, "closed at 2"},
		{"closed", op{abandon, "mine", 5}, "closed at 2"},
		{"closed", op{finish, "mine", 5}, "closed at 2"},
		{"closed", op{finish, "other", 5}, "closed at 2"},
	}
	each(t, func(t *testing.T, s *store.Store) {
		for n, row := range table {
			id := open(t, s, "alice", n).ID
			var m model
			for _, o := range statuses[row.status] {
				o.run(t.Context(), s, id)
				m, _ = m.apply(o)
			}
			if got := row.operation.run(t.Context(), s, id); got != row.want {
				t.Errorf("%s, then %v: %s, want %s", row.status, row.operation, got, row.want)
			}
			// The model of the tests below is held to the same table.
			if _, got := m.apply(row.operation); got != row.want {
				t.Errorf("model: %s, then %v: %s, want %s", row.status, row.operation, got, row.want)
			}
		}
	})
}

// anyOp draws an operation. The clock goes wherever it likes, backwards too: replicas have clocks of their own.
func anyOp() *rapid.Generator[op] {
	return rapid.Custom(func(t *rapid.T) op {
		return op{
			kind:    rapid.SampledFrom([]kind{freeze, unfreeze, begin, begin, abandon, finish, get}).Draw(t, "kind"),
			attempt: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "attempt"),
			minute:  rapid.IntRange(0, 25).Draw(t, "minute"),
		}
	})
}

func TestAnySequenceIsAsTheModelSays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store) {
		var accounts atomic.Int64
		rapid.Check(t, func(r *rapid.T) {
			id := open(t, s, "alice", int(accounts.Add(1))).ID
			var m model
			for _, o := range rapid.SliceOfN(anyOp(), 1, 25).Draw(r, "operations") {
				var want string
				m, want = m.apply(o)
				if got := o.run(t.Context(), s, id); got != want {
					r.Fatalf("%v: %s, want %s", o, got, want)
				}
			}
			checkInterventions(t, s, id, m.interventions)
		})
	})
}

// checkInterventions looks at an account's history: it is numbered without a gap, freezing and unfreezing take turns, and it says who and why.
func checkInterventions(t *testing.T, s *store.Store, accountID string, want int) {
	t.Helper()
	rows, err := s.DB().QueryContext(t.Context(), `SELECT number, kind, actor, reason FROM interventions WHERE account_id = $1 ORDER BY number`, accountID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	n := 0
	for rows.Next() {
		var number int
		var did kind
		var actor, reason string
		if err := rows.Scan(&number, &did, &actor, &reason); err != nil {
			t.Fatal(err)
		}
		turn := []kind{freeze, unfreeze}[n%2]
		n++
		if number != n || did != turn || actor != "spiffe://bank.test/operator" || !strings.HasPrefix(reason, string(did)) {
			t.Errorf("intervention %d of %s is number %d: %s by %s because of %q; want %s", n, accountID, number, did, actor, reason, turn)
		}
	}
	if err := rows.Err(); err != nil || n != want {
		t.Errorf("%d interventions in the history of %s (%v), want %d", n, accountID, err, want)
	}
}

// event is an operation of several that overlap, with its answer, and when it was asked and answered.
type event struct {
	op
	answer          string
	asked, answered int64
}

// TestOperationsAtOnceHaveAnOrder holds that what several callers of two replicas are told at once is what they would be told one after
// the other, in an order that fits when they asked and were answered.
func TestOperationsAtOnceHaveAnOrder(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		stores := []*store.Store{openStore(t, dsn), openStore(t, dsn)}
		for round := range 60 {
			id := open(t, stores[0], "alice", round).ID
			// Fast enough together that they meet: five callers, four operations each.
			events := make([][]event, 5)
			for caller := range events {
				for _, o := range rapid.SliceOfN(anyOp(), 4, 4).Example(round*len(events) + caller) {
					events[caller] = append(events[caller], event{op: o})
				}
			}
			var clock atomic.Int64
			var group sync.WaitGroup
			for caller, mine := range events {
				group.Go(func() {
					for i := range mine {
						mine[i].asked = clock.Add(1)
						mine[i].answer = mine[i].run(context.Background(), stores[caller%2], id)
						mine[i].answered = clock.Add(1)
					}
				})
			}
			group.Wait()
			end, ok := order(events)
			if !ok {
				t.Fatalf("no order explains what was answered:\n%s", lines(events))
			}
			if got := (op{kind: get}).run(t.Context(), stores[1], id); !end[got] {
				t.Errorf("at the end the account is %s, in the orders that explain what was answered it is one of %v:\n%s", got, end, lines(events))
			}
		}
	})
}

// place is how far a search for an order has come: how many operations of each caller are done, and what the account is then.
type place struct {
	done  [5]int
	model model
}

// order looks for the orders of all events in which the model gives their answers, and returns what the account may be at their end.
func order(events [][]event) (end map[string]bool, ok bool) {
	end = map[string]bool{}
	seen := map[place]bool{}
	var visit func(p place)
	visit = func(p place) {
		if seen[p] {
			return
		}
		seen[p] = true
		// Whoever was answered before another asked comes before it.
		first := int64(1 << 62)
		for caller, mine := range events {
			if p.done[caller] < len(mine) {
				first = min(first, mine[p.done[caller]].answered)
			}
		}
		left := false
		for caller, mine := range events {
			if p.done[caller] == len(mine) {
				continue
			}
			left = true
			next := mine[p.done[caller]]
			m, answer := p.model.apply(next.op)
			if next.asked < first && answer == next.answer {
				further := place{p.done, m}
				further.done[caller]++
				visit(further)
			}
		}
		if !left {
			end[p.model.words()] = true
		}
	}
	visit(place{})
	return end, len(end) > 0
}

func lines(events [][]event) string {
	var b strings.Builder
	for caller, mine := range events {
		for _, e := range mine {
			_, _ = fmt.Fprintf(&b, "caller %d, %d to %d: %v: %s\n", caller, e.asked, e.answered, e.op, e.answer)
		}
	}
	return b.String()
}

// A test of the search itself: answers that no order explains are found.
func TestNoOrderExplainsWhatIsWrong(t *testing.T) {
	t.Parallel()
	wrong := map[string][][]event{
		"both froze it":                    {{{op{freeze, "", 1}, "frozen at 1", 1, 4}}, {{op{freeze, "", 2}, "frozen at 2", 2, 3}}},
		"closed, and open afterwards":      {{{op{begin, "a", 1}, "being closed by a until 11", 1, 2}, {op{finish, "a", 2}, "closed at 2", 3, 4}}, {{op{kind: get}, "open", 5, 6}}},
		"finished what was given up":       {{{op{begin, "a", 1}, "being closed by a until 11", 1, 2}, {op{finish, "a", 2}, "closed at 2", 5, 6}}, {{op{abandon, "a", 1}, "open", 3, 4}}},
		"frozen when it was nobody's turn": {{{op{kind: get}, "frozen at 1", 1, 2}}, {{op{freeze, "", 1}, "frozen at 1", 3, 4}}},
	}
	for name, events := range wrong {
		if end, ok := order(events); ok {
			t.Errorf("%s: taken, with the end %v", name, end)
		}
	}
	right := [][]event{{{op{freeze, "", 1}, "frozen at 2", 1, 4}}, {{op{freeze, "", 2}, "frozen at 2", 2, 3}}}
	end, ok := order(right)
	if diff := cmp.Diff(map[string]bool{"frozen at 2": true}, end); !ok || diff != "" {
		t.Errorf("two that freeze at once: %t, %s", ok, diff)
	}
}
