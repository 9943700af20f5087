package audit

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestLostDecisionsAreCountedWhereTheyWere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{down: true}
		q, stop := start(t, s, WithCapacity(8), WithBatch(4, time.Millisecond))
		record(q, true, names(1, 6)...)
		before := time.Now()
		record(q, true, "7")
		pass(time.Second)
		after := time.Now()
		record(q, true, "8")
		if got := q.Stats(); got.Queued != 6 || got.Lost != 2 {
			t.Errorf("when full: %+v, want 6 queued and 2 lost", got)
		}
		s.set(func() { s.down = false })
		pass(time.Minute)
		record(q, true, "9")
		stop()
		want(t, s, append(names(1, 6), "lost 2", "9")...)
		gap := s.order[6].GetGap()
		if !gap.GetStartTime().AsTime().Equal(before) || !gap.GetEndTime().AsTime().Equal(after) {
			t.Errorf("gap from %v to %v, want %v to %v", gap.GetStartTime().AsTime(), gap.GetEndTime().AsTime(), before, after)
		}
	})
}

func TestDeniedDecisionsFindRoomThatAllowedOnesDoNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{down: true}
		q, stop := start(t, s, WithCapacity(12))
		record(q, true, names(1, 20)...) // 9 find room
		record(q, false, "denied 1")
		record(q, true, "21")
		record(q, false, "denied 2") // needs two places, for the gap too
		record(q, false, "denied 3")
		if got := q.Stats(); got.Queued != 11 || got.Lost != 14 {
			t.Errorf("when full: %+v, want 11 queued and 14 lost", got)
		}
		s.set(func() { s.down = false })
		pass(time.Minute)
		stop()
		want(t, s, append(names(1, 9), "lost 11", "denied 1", "lost 3")...)
	})
}

// Every decision is either stored or counted, whatever happens in between.
func TestNothingIsMissingUnnoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		q, stop := start(t, s, WithCapacity(64), WithBatch(8, 5*time.Millisecond))
		const recorders, each = 8, 2000
		var group sync.WaitGroup
		for r := range recorders {
			group.Go(func() {
				for i := range each {
					q.Record(decision(fmt.Sprintf("%d/%04d", r, i), (i+r)%3 > 0))
					if i%17 == 0 {
						pass(time.Duration(r+1) * 20 * time.Millisecond)
					}
					if r == 0 && i%50 == 0 {
						s.set(func() { s.cut, s.down = 3, i%200 == 0 })
					}
				}
			})
		}
		group.Wait()
		s.set(func() { s.cut, s.down = 0, false })
		pass(time.Minute)
		synctest.Wait()
		stats := q.Stats()
		stop()
		checkComplete(t, s, recorders*each, stats.Lost)
		if stats.Lost == 0 || s.streams < 5 {
			t.Errorf("%d lost, %d streams: the test did not reach what it is for", stats.Lost, s.streams)
		}
	})
}

// checkComplete checks that sequences have no hole, that decisions and gaps make up the total, and that each recorder's are in order.
func checkComplete(t *testing.T, s *service, total int, lost int64) {
	t.Helper()
	last, gaps, decisions := make(map[string]string), int64(0), 0
	for i, r := range s.order {
		if r.GetSequence() != int64(i+1) {
			t.Fatalf("record %d has sequence %d", i+1, r.GetSequence())
		}
		if r.GetGap() != nil {
			gaps += r.GetGap().GetLostCount()
			continue
		}
		decisions++
		method := r.GetDecision().GetMethod()
		recorder, _, _ := strings.Cut(method, "/")
		if method <= last[recorder] {
			t.Errorf("%s stored after %s", method, last[recorder])
		}
		last[recorder] = method
	}
	if gaps != lost || decisions+int(gaps) != total {
		t.Errorf("%d stored and %d in gaps of %d made; %d counted as lost", decisions, gaps, total, lost)
	}
}

func TestRecordDoesNotAllocate(t *testing.T) {
	q := NewQueue(nil)
	d := decision("/bank.ledger.v1.LedgerService/PostTransfer", true)
	if n := testing.AllocsPerRun(5000, func() { q.Record(d) }); n != 0 {
		t.Errorf("%v allocations while there is room", n)
	}
	for range defaultCapacity {
		q.Record(d)
	}
	if n := testing.AllocsPerRun(5000, func() { q.Record(d) }); n != 0 {
		t.Errorf("%v allocations when full", n)
	}
}

func TestLongTextsAreNotKept(t *testing.T) {
	t.Parallel()
	q := NewQueue(nil)
	long := strings.Repeat("m", 1<<20)
	q.Record(Decision{Method: long, Rule: long, Reason: long})
	d := q.slot(1).decision
	for name, s := range map[string]string{"method": d.Method, "rule": d.Rule, "reason": d.Reason} {
		if len(s) != maxText {
			t.Errorf("%s of %d bytes kept, want %d", name, len(s), maxText)
		}
	}
}
