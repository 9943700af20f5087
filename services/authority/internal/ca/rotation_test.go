package ca

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// published is a bundle and the time in which it was the published one.
type published struct {
	bundle []byte
	from   time.Time
	until  time.Time // zero while it is
}

// world is an authority over simulated time, with everything that it has published and signed.
type world struct {
	t       *testing.T
	dir     string
	config  Config
	clock   *clock
	ca      *CA
	bundles []published
	svids   []heldSVID
	signers map[string]time.Time // authority key ID → when its bundle was first published
	first   string
}

type heldSVID struct {
	SVID
	issued time.Time
}

func newWorld(t *testing.T, authorityTTL, svidTTL time.Duration) *world {
	t.Helper()
	w := &world{
		t: t, dir: t.TempDir() + "/state", clock: newClock(), signers: make(map[string]time.Time),
		config: Config{TrustDomain: bankTD, AuthorityTTL: authorityTTL, SVIDTTL: svidTTL, JWTTTL: svidTTL},
	}
	w.restart()
	return w
}

func (w *world) restart() {
	if w.ca != nil {
		if err := w.ca.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.ca = open(w.t, w.dir, w.config, w.clock.Now)
	w.publish()
}

// publish notes the bundle as it is now.
func (w *world) publish() {
	now, bundle := w.clock.Now(), w.ca.X509Bundle()
	if n := len(w.bundles); n > 0 {
		if bytes.Equal(w.bundles[n-1].bundle, bundle) {
			return
		}
		w.bundles[n-1].until = now
	}
	w.bundles = append(w.bundles, published{bundle: bundle, from: now})
	for _, cert := range certificates(w.t, bundle) {
		id := hex.EncodeToString(cert.SubjectKeyId)
		if _, ok := w.signers[id]; !ok {
			w.signers[id] = now
		}
		if w.first == "" {
			w.first = id
		}
	}
}

func (w *world) tick(d time.Duration) {
	w.clock.Advance(d)
	if err := w.ca.Rotate(); err != nil {
		w.t.Fatal(err)
	}
	w.publish()
}

func (w *world) issue() {
	now := w.clock.Now()
	issued, err := w.ca.IssueX509(Request{ID: ledger})
	if err != nil {
		w.t.Fatalf("at %s: %v", now, err)
	}
	svid := issued.SVIDs[0]
	signer := hex.EncodeToString(certificates(w.t, svid.Certificates)[0].AuthorityKeyId)
	// ATTACKS 35: nothing is signed by an authority before its bundle was published, and for long enough.
	if at, ok := w.signers[signer]; !ok || signer != w.first && now.Sub(at) < w.config.SVIDTTL {
		w.t.Errorf("signed by %s at %s, published at %s", signer, now, at)
	}
	w.svids = append(w.svids, heldSVID{SVID: svid, issued: now})
}

// check holds every unexpired SVID against every bundle that was published since it was issued, and against the one that was
// before: a workload that is a moment behind has that.
func (w *world) check() {
	now := w.clock.Now()
	live := w.svids[:0]
	for _, svid := range w.svids {
		if !now.Before(svid.NotAfter) {
			continue
		}
		live = append(live, svid)
		for _, b := range w.bundles {
			if !b.until.IsZero() && b.until.Before(svid.issued) {
				continue
			}
			if err := verifies(w.t, svid.Certificates, b.bundle, now); err != nil {
				w.t.Errorf("at %s: SVID issued %s, valid until %s, bundle of %s: %v", now, svid.issued, svid.NotAfter, b.from, err)
			}
		}
	}
	w.svids = live
	if len(w.bundles) > 20 {
		w.bundles = w.bundles[len(w.bundles)-20:]
	}
}

// ATTACKS 34, 35, 40: rotations, with restarts in between.
func TestAtEveryInstantEveryUnexpiredSVIDVerifies(t *testing.T) {
	t.Parallel()
	for name, ttls := range map[string][2]time.Duration{
		"authority 20 s, SVID 4 s":  {20 * time.Second, 4 * time.Second},
		"authority 60 s, SVID 10 s": {time.Minute, 10 * time.Second},
		"the least ratio":           {16 * time.Second, 4 * time.Second},
		"authority 24 h, SVID 1 h":  {24 * time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ttls[0], ttls[1])
			random := rand.New(rand.NewPCG(1, uint64(ttls[0])))
			for end := w.clock.Now().Add(3 * ttls[0]); w.clock.Now().Before(end) && !t.Failed(); {
				w.tick(ttls[1] * time.Duration(1+random.IntN(9)) / 40)
				if random.IntN(3) == 0 {
					w.issue()
				}
				if random.IntN(30) == 0 {
					w.restart()
				}
				w.check()
			}
			if len(w.signers) < 3 {
				t.Errorf("only %d authorities were seen: the test shows nothing", len(w.signers))
			}
			if keys := certificates(t, w.ca.X509Bundle()); len(keys) > 3 {
				t.Errorf("%d authorities are published; old ones do not leave", len(keys))
			}
		})
	}
}

// phases returns the phases of the X.509 keys, oldest first.
func phases(c *CA) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := ""
	for _, key := range c.rings.X509 {
		text += string(key.Phase) + " "
	}
	return text
}

func TestAnAuthorityGoesThroughItsPhases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 24*time.Hour, time.Hour)
	for _, step := range []struct {
		after time.Duration
		want  string
	}{
		{0, "active "},
		{11*time.Hour + 59*time.Minute, "active "},
		{2 * time.Minute, "active prepared "},
		{7*time.Hour + 58*time.Minute, "active prepared "},
		{2 * time.Minute, "old active "},
		{59 * time.Minute, "old active "},
		{2 * time.Minute, "active "},
	} {
		w.tick(step.after)
		if got := phases(w.ca); got != step.want {
			t.Fatalf("at %s: %q, want %q", w.clock.Now(), got, step.want)
		}
	}
}

func TestAnOldAuthorityStaysForTheLongestLifeThatItGave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 24*time.Hour, time.Hour)
	w.tick(12*time.Hour + time.Minute)
	w.tick(7*time.Hour + 55*time.Minute)
	svid := issue(t, w.ca, Request{ID: ledger, TTL: 3 * time.Hour}).SVIDs[0]
	w.tick(10 * time.Minute)
	w.restart() // must not forget it
	w.tick(2*time.Hour + 30*time.Minute)
	if err := verifies(t, svid.Certificates, w.ca.X509Bundle(), w.clock.Now()); err != nil {
		t.Errorf("%s: %v", phases(w.ca), err)
	}
	w.tick(30 * time.Minute)
	if got := phases(w.ca); got != "active " && got != "active prepared " {
		t.Errorf("it does not leave: %q", got)
	}
}

// ATTACKS 35: while the authority is away nobody can fetch a bundle, so that time does not count as published.
func TestAnOutageDoesNotCountAsPublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 24*time.Hour, time.Hour)
	w.tick(12*time.Hour + time.Minute)
	w.clock.Advance(8 * time.Hour)
	w.restart()
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{0, "active prepared "}, {59 * time.Minute, "active prepared "}, {2 * time.Minute, "old active "}} {
		w.tick(step.after)
		if got := phases(w.ca); got != step.want {
			t.Fatalf("at %s: %q, want %q", w.clock.Now(), got, step.want)
		}
	}
}

// ATTACKS 38: nobody has to help after a long sleep.
func TestAnOutageLongerThanTheKeysLivesHealsItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Minute, 10*time.Second)
	w.tick(72 * time.Hour)
	issued := issue(t, w.ca, Request{ID: ledger})
	if err := verifies(t, issued.SVIDs[0].Certificates, issued.Bundle, w.clock.Now()); err != nil {
		t.Error(err)
	}
	if got := phases(w.ca); got != "active " {
		t.Errorf("phases %q", got)
	}
}

// ATTACKS 39: the clock is set back, by little and by much.
func TestAClockThatIsSetBackDoesNotStopTheAuthority(t *testing.T) {
	t.Parallel()
	for _, back := range []time.Duration{5 * time.Minute, 48 * time.Hour} {
		w := newWorld(t, 24*time.Hour, time.Hour)
		w.tick(13 * time.Hour)
		before := certificates(t, w.ca.X509Bundle())
		w.tick(-back)
		issued := issue(t, w.ca, Request{ID: ledger})
		if err := verifies(t, issued.SVIDs[0].Certificates, issued.Bundle, w.clock.Now()); err != nil {
			t.Errorf("set back by %s: %v", back, err)
		}
		if back < authorityBackdate && len(certificates(t, issued.Bundle)) != len(before) {
			t.Errorf("set back by %s: there is a new authority", back)
		}
	}
}

func TestNothingIsSignedWithoutAnActiveKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Minute, 10*time.Second)
	w.clock.Advance(time.Hour) // and no rotation
	if _, err := w.ca.IssueX509(Request{ID: ledger}); !errors.Is(err, ErrNotReady) {
		t.Errorf("X.509: %v, want ErrNotReady", err)
	}
	if _, err := w.ca.IssueJWT(ledger, []string{"a"}); !errors.Is(err, ErrNotReady) {
		t.Errorf("JWT: %v, want ErrNotReady", err)
	}
	if _, _, err := w.ca.Expiry(); !errors.Is(err, ErrNotReady) {
		t.Errorf("expiry: %v, want ErrNotReady", err)
	}
}

func TestRunRotatesAndTells(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/state"
	synctest.Test(t, func(t *testing.T) {
		config := Config{TrustDomain: bankTD, AuthorityTTL: 20 * time.Second, SVIDTTL: 4 * time.Second, JWTTTL: 4 * time.Second}
		c := open(t, dir, config, time.Now)
		done := make(chan error, 1)
		go func() { done <- c.Run(t.Context()) }()
		x509Changed, jwtChanged := c.X509Changed(), c.JWTChanged()
		before := c.X509Bundle()
		start := time.Now()
		<-x509Changed
		<-jwtChanged
		if after := time.Since(start); after < 9*time.Second || after > 11*time.Second {
			t.Errorf("the next keys were published after %s, want half of their predecessors' lives", after)
		}
		if bytes.Equal(before, c.X509Bundle()) {
			t.Error("the bundle has not changed")
		}
		t.Cleanup(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	})
}
