package identity_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/meshtest"
)

// ATTACKS 38: a machine that slept longer than its SVID lives comes back without hands, though the stream never broke.
func TestSourceComesBackAfterSleep(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	next := f.ca.SVID(t, "/payments", meshtest.Lifetime(12*time.Hour))
	f.clock.jump(2 * time.Hour)
	if _, err := f.source.GetX509SVID(); !errors.Is(err, identity.ErrExpired) {
		t.Errorf("after the sleep: %v, want ErrExpired", err)
	}
	eventually(t, "a new stream", func() bool { return f.api.Streams() > 1 })
	f.api.Grant(t, next, f.ca.Bundle())
	eventually(t, "the new SVID is used", func() bool { _, err := f.source.GetX509SVID(); return err == nil })
}

// ATTACKS 39: a clock that is five minutes ahead costs five minutes of the SVID's life, and nothing else.
func TestSourceWithAClockThatIsAhead(t *testing.T) {
	t.Parallel()
	f := &fixture{ca: meshtest.NewCA(t, "bank.test"), api: meshtest.NewWorkloadAPI(t), log: &journal{}, clock: &clock{offset: 5 * time.Minute}}
	f.api.Grant(t, f.ca.SVID(t, "/payments"), f.ca.Bundle())
	f.open(t)
	f.clock.jump(54 * time.Minute)
	if _, err := f.source.GetX509SVID(); err != nil {
		t.Errorf("a minute before expiry by this clock: %v", err)
	}
	f.clock.jump(2 * time.Minute)
	if _, err := f.source.GetX509SVID(); !errors.Is(err, identity.ErrExpired) {
		t.Errorf("a minute after expiry by this clock: %v, want ErrExpired", err)
	}
}

// ATTACKS 39: with a clock that is five minutes behind, an SVID that was just signed is not valid yet: New says so, and goes on as
// soon as the clock is right.
func TestSourceWithAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	ca, api, late := meshtest.NewCA(t, "bank.test"), meshtest.NewWorkloadAPI(t), &clock{offset: -5 * time.Minute}
	api.Grant(t, ca.SVID(t, "/payments"), ca.Bundle())
	open := func(patience time.Duration) (*identity.Source, error) {
		return identity.New(t.Context(), identity.WithSocket(api.Addr()), identity.WithLogger((&journal{}).logger()),
			identity.WithSourceClock(late.now), identity.WithStartTimeout(patience))
	}
	_, err := open(time.Second)
	if err == nil {
		t.Fatal("New took an SVID that is not valid yet")
	}
	for _, want := range []string{"not valid before", "compare this machine's clock"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	streams := api.Streams()
	go func() {
		for api.Streams() == streams { // the wrong clock was seen
			<-time.After(time.Millisecond)
		}
		late.jump(5 * time.Minute)
	}()
	source, err := open(15 * time.Second)
	if err != nil {
		t.Fatalf("the clock was put right: %v", err)
	}
	if err := source.Close(); err != nil {
		t.Error(err)
	}
}

// ATTACKS 39: when the clock is set back, the SVID at hand goes on, and a new one is taken as soon as it is valid by the clock.
func TestSourceWhoseClockIsSetBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.serial()
	f.clock.jump(-time.Hour)
	next := f.ca.SVID(t, "/payments")
	f.api.Grant(t, next, f.ca.Bundle())
	eventually(t, "the new SVID is refused", func() bool { return f.source.Status().Err != nil })
	if svid, err := f.source.GetX509SVID(); err != nil || serialOf(svid) != first {
		t.Errorf("GetX509SVID = %v, %v; want the one at hand", svid, err)
	}
	f.clock.jump(time.Hour)
	eventually(t, "the new SVID is used", func() bool { return f.serial() == serialOf(next) })
}

// ATTACKS 39: an expiry that a clock's jump brought about is taken back with it, and the one that comes later is announced again.
func TestAnExpiryIsTakenBackWithTheClock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.api.Stop()
	announced := func(times int) func() bool {
		return func() bool { return strings.Count(f.log.String(), "identity expired") == times }
	}
	f.clock.jump(2 * time.Hour)
	eventually(t, "the expiry is announced", announced(1))
	changed := f.source.Changed()
	f.clock.jump(-2 * time.Hour)
	select {
	case <-changed:
	case <-time.After(15 * time.Second):
		t.Fatal("nobody is told that the SVID can be used again")
	}
	if _, err := f.source.GetX509SVID(); err != nil {
		t.Errorf("GetX509SVID = %v", err)
	}
	f.clock.jump(2 * time.Hour)
	eventually(t, "the next expiry is announced", announced(2))
}
