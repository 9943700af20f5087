package identity_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// pipe is a log whose reader may go away: while it is stuck it takes a line and does not come back.
type pipe struct {
	slog.Handler // discards

	mu      sync.Mutex
	moving  chan struct{} // closed while lines pass
	waiting bool
	lines   []slog.Record // that passed
}

func newPipe() *pipe {
	p := &pipe{Handler: slog.DiscardHandler, moving: make(chan struct{})}
	close(p.moving)
	return p
}

func (p *pipe) stick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moving = make(chan struct{})
}

func (p *pipe) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.moving)
}

func (p *pipe) Enabled(context.Context, slog.Level) bool { return true }

func (p *pipe) Handle(_ context.Context, line slog.Record) error {
	p.mu.Lock()
	moving := p.moving
	p.waiting = true
	p.mu.Unlock()
	<-moving
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = false
	p.lines = append(p.lines, line)
	return nil
}

func (p *pipe) isStuck() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

// messages are those of the lines that passed.
func (p *pipe) messages() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, line := range p.lines {
		all = append(all, line.Message)
	}
	return all
}

func (p *pipe) has(message string) func() bool {
	return func() bool { return slices.Contains(p.messages(), message) }
}

// promptly returns what ask returns, or fails when it does not: whoever asks a Source that waits for its log waits with it.
func promptly[T any](t *testing.T, ask func() T) (got T) {
	t.Helper()
	answers := make(chan T, 1)
	go func() { answers <- ask() }()
	select {
	case got = <-answers:
	case <-time.After(10 * time.Second):
		t.Error("the Source does not answer while it logs")
	}
	return got
}

// A log that is stuck holds up no handshake, and hides neither a rotation nor a withdrawal. What it missed is written in order once it moves
// again.
func TestALogThatIsStuckHoldsUpNobody(t *testing.T) {
	t.Parallel()
	log := newPipe()
	f := newFixture(t, identity.WithLogger(slog.New(log)))
	eventually(t, "the start is logged", log.has("identity received"))
	log.stick()
	release := sync.OnceFunc(log.release)
	defer release() // before the Source is closed, which waits for its log
	state := func() error {
		return promptly(t, func() error { _, err := f.source.GetX509SVID(); return err })
	}

	f.api.Grant(t, f.ca.SVID(t, "/payments"), f.ca.Bundle())
	eventually(t, "the log is stuck", log.isStuck)
	if err := state(); err != nil || t.Failed() {
		t.Fatalf("GetX509SVID = %v", err)
	}
	f.api.Fail(status.Error(codes.PermissionDenied, "no identity issued"))
	eventually(t, "the withdrawal takes effect", func() bool { return errors.Is(state(), identity.ErrWithdrawn) })
	f.api.Grant(t, f.ca.SVID(t, "/payments"), f.ca.Bundle())
	eventually(t, "the identity is granted again", func() bool { return state() == nil })
	if got := log.messages(); len(got) != 1 {
		t.Errorf("the log was not stuck: %q", got)
	}

	release()
	want := []string{"identity received", "identity rotated", "identity withdrawn, no longer used", "identity granted again", "identity rotated"}
	eventually(t, "all is written", func() bool { return len(log.messages()) >= len(want) })
	if diff := cmp.Diff(want, log.messages()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// asking is a log that asks the Source before each line, as one does that adds the process's own ID to it.
type asking struct {
	*pipe
	t      *testing.T
	source chan *identity.Source // holds the Source once there is one
}

func (a *asking) Handle(ctx context.Context, line slog.Record) error {
	source := <-a.source
	a.source <- source
	promptly(a.t, source.ID)
	promptly(a.t, source.Status)
	return a.pipe.Handle(ctx, line)
}

func TestALogMayAskTheSource(t *testing.T) {
	t.Parallel()
	log := &asking{pipe: newPipe(), t: t, source: make(chan *identity.Source, 1)}
	f := &fixture{ca: meshtest.NewCA(t, "bank.test"), api: meshtest.NewWorkloadAPI(t), log: &journal{}, clock: &clock{}}
	f.api.Grant(t, f.ca.SVID(t, "/payments"), f.ca.Bundle())
	f.open(t, identity.WithLogger(slog.New(log)))
	log.source <- f.source
	eventually(t, "the start is logged", log.has("identity received"))
	f.api.Grant(t, f.ca.SVID(t, "/payments"), f.ca.Bundle())
	eventually(t, "the rotation is logged", log.has("identity rotated"))
	f.clock.jump(2 * time.Hour)
	eventually(t, "the expiry is logged", log.has("identity expired, no longer used"))
}

// A log that is stuck for good takes so much memory and no more, and says how much it missed when it moves after all.
func TestALogThatIsStuckForLongMissesLines(t *testing.T) {
	t.Parallel()
	log := newPipe()
	lines := identity.NewLines(log)
	log.stick()
	lines.Add(slog.LevelInfo, "one that is stuck")
	eventually(t, "the log is stuck", log.isStuck)
	for range identity.MaxUnwritten + 3 {
		lines.Add(slog.LevelInfo, "one that waits")
	}
	log.release()
	eventually(t, "what waited is written", func() bool { return len(log.messages()) == 1+identity.MaxUnwritten })
	lines.Add(slog.LevelInfo, "one that passes")
	lines.Wait()
	missed := make(map[string]int64)
	for _, line := range log.lines {
		line.Attrs(func(a slog.Attr) bool { missed[line.Message+" "+a.Key] = a.Value.Int64(); return true })
	}
	if diff := cmp.Diff(map[string]int64{"one that passes not_logged_before": 3}, missed); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

// A line is dated and placed where it is added, not where it is written.
func TestALineKeepsItsPlace(t *testing.T) {
	t.Parallel()
	log := newPipe()
	lines := identity.NewLines(log)
	log.stick()
	lines.Add(slog.LevelInfo, "one that is stuck")
	eventually(t, "the log is stuck", log.isStuck)
	before := time.Now()
	lines.Add(slog.LevelInfo, "one that waits")
	after := time.Now()
	log.release()
	lines.Wait()
	line := log.lines[1]
	if line.Time.Before(before) || line.Time.After(after) {
		t.Errorf("dated %v, want within %v to %v", line.Time, before, after)
	}
	if frame, _ := runtime.CallersFrames([]uintptr{line.PC}).Next(); !strings.HasSuffix(frame.File, "source_log_test.go") {
		t.Errorf("placed in %s, want this file", frame.File)
	}
}
