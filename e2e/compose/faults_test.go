package compose

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
)

// testFaults has payers pay from outside while containers are killed, cut off and multiplied, and finds every payment in the books in the end.
func testFaults(t *testing.T, p *project) {
	before := &ledgerv1.CheckTrialBalanceResponse{}
	if err := p.call(t.Context(), "ledger", "CheckTrialBalance", &ledgerv1.CheckTrialBalanceRequest{}, before); err != nil {
		t.Fatal(err)
	}
	l := newLoad(t, p)
	l.goesOn(t)
	steps := []struct {
		name string
		run  func(*testing.T, *project, *load)
	}{
		{"a service that was killed and started is paid through again", testKilled},
		{"a service that dies by itself comes back by itself", testDies},
		{"the network between payments and ledger is cut and healed", testCut},
		{"the authority is killed and started, and no call fails", testAuthority},
		{"calls go to three replicas of payments alike, and to two when one is killed", testScale},
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, p, l); l.sound(t) }) {
			return
		}
	}
	l.end()
	l.sound(t)
	t.Run("the books have every payment once", func(t *testing.T) { testBooks(t, p, l, before.GetTransferCount()) })
}

// testKilled kills one service after the other, with the signal that leaves no time for anything.
func testKilled(t *testing.T, p *project, l *load) {
	for _, service := range bank.Services() {
		_, failed := l.count()
		id := p.container(t, service)
		docker(t, "kill", id)
		begin := time.Now()
		docker(t, "start", id)
		l.goesOn(t)
		_, now := l.count()
		t.Logf("%s killed and started: payments go on within %v; %d attempts were answered with an error before",
			service, time.Since(begin).Round(100*time.Millisecond), now-failed)
		p.healthy(t, id)
	}
}

// testDies kills the ledger's process without telling Docker, as its own bug would.
func testDies(t *testing.T, p *project, l *load) {
	id := p.container(t, "ledger")
	was := inspect[inspected](t, "container", id)[0]
	// Docker's number may be of another machine, and some other process's here.
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", was.State.Pid))
	if err != nil || !strings.Contains(string(groups), id) {
		unseen(t, err)
	}
	if err := syscall.Kill(was.State.Pid, syscall.SIGKILL); err != nil {
		unseen(t, err)
	}
	bank.Eventually(t, promise, func() string {
		now := inspect[inspected](t, "container", id)[0]
		if now.RestartCount <= was.RestartCount || now.State.Status != "running" {
			return fmt.Sprintf("it is %s and was started again %d times", now.State.Status, now.RestartCount)
		}
		return ""
	})
	t.Logf("payments go on within %v", l.goesOn(t).Round(100*time.Millisecond))
	p.healthy(t, id)
}

// testCut takes payments off the one network that it shares with the ledger.
func testCut(t *testing.T, p *project, l *load) {
	id, network := p.container(t, "payments"), p.name+"_ledger"
	docker(t, "network", "disconnect", network, id)
	cut := time.Now()
	// Nobody is told that a payment is done while the books cannot be reached. Those that were posted before the cut may still be answered.
	pause(t, 5*time.Second)
	for _, paid := range l.payments() {
		if paid.end.After(cut.Add(2 * time.Second)) {
			t.Errorf("payment %s was done %v after the cut", paid.id, paid.end.Sub(cut))
		}
	}
	docker(t, "network", "connect", "--alias=payments", network, id)
	t.Logf("healed after %v; payments go on within %v more", time.Since(cut).Round(100*time.Millisecond), l.goesOn(t).Round(100*time.Millisecond))
	p.healthy(t, id)
}

// testAuthority takes the Workload API away under load and brings it back. Everybody has the SVIDs that they have.
func testAuthority(t *testing.T, p *project, l *load) {
	done, failed := l.count()
	id := p.container(t, "authority")
	docker(t, "kill", id)
	away := time.Now()
	l.goesOn(t)
	pause(t, 3*time.Second)
	docker(t, "start", id)
	p.healthy(t, id)
	l.goesOn(t)
	nowDone, nowFailed := l.count()
	if nowFailed != failed {
		l.mu.Lock()
		defer l.mu.Unlock()
		t.Errorf("%d attempts have failed while the authority was away:\n%s", nowFailed-failed, strings.Join(l.failed[failed:], "\n"))
	}
	t.Logf("the authority was away and came back within %v; %d payments were done, no attempt failed", time.Since(away).Round(100*time.Millisecond), nowDone-done)
	// Whoever asks is served again, as before.
	for _, service := range []string{"ledger", "operator"} {
		p.healthy(t, p.container(t, service))
	}
	if out, err := p.stranger(t, []string{p.socket("ledger")}, "countersign/countersign", "svid", "show"); err != nil || !strings.Contains(out, "spiffe://bank.test/ledger") {
		t.Errorf("a new SVID of the ledger: %v\n%s", err, out)
	}
}

// pause lets a fault last.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
}
