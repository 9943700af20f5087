// Package ca is the X.509 and JWT signing authority of one trust domain: its keys, when they change, what they sign, and the
// file that keeps them over a restart.
//
// A signing key goes through three phases, as in SPIRE. It is prepared: in the published bundle, signing nothing. It is active:
// the one key that signs. It is old: it signs no more, and stays in the bundle until all that it has signed has expired. A key is
// published long enough before it signs that every workload has the bundle by then (SPIFFE Federation §4.1), so that nobody ever
// meets an SVID that it cannot verify.
//
// The file holds the only private keys that are ever on disk. Whatever is wrong with it is an error with a way out, never a
// new root: a trust domain that silently starts again has lost everybody that trusted the one before.
package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// MaxTTL is the longest life of an SVID from NotBefore to NotAfter: verifiers may hold one that lives longer for a mistake.
const MaxTTL = 24 * time.Hour

// rotationInterval is how often the keys' phases are looked at. The wall clock decides, not a timer: a timer stands still
// while the machine sleeps.
const rotationInterval = 250 * time.Millisecond

// The package's sentinel errors.
var (
	// ErrNotReady says that no key can sign at this moment.
	ErrNotReady = errors.New("no signing key is active")
	// ErrToken says that a JWT-SVID is not valid.
	ErrToken = errors.New("invalid JWT-SVID")
)

// Config is what an authority is made for.
type Config struct {
	TrustDomain spiffeid.TrustDomain
	// AuthorityTTL is the life of a signing key.
	AuthorityTTL time.Duration
	// SVIDTTL and JWTTTL are the lives of SVIDs that ask for none of their own. A key lives at least four times as long.
	SVIDTTL time.Duration
	JWTTTL  time.Duration
}

// check says what is wrong with the configuration.
func (c Config) check() error {
	if c.TrustDomain.IsZero() {
		return errors.New("no trust domain is set")
	}
	var errs []error
	for name, ttl := range map[string]time.Duration{"an X.509-SVID": c.SVIDTTL, "a JWT-SVID": c.JWTTTL} {
		if ttl < MinTTL || ttl > MaxTTL {
			errs = append(errs, fmt.Errorf("the life of %s is %s; right would be %s to %s", name, ttl, MinTTL, MaxTTL))
		}
		if ttl > c.AuthorityTTL/4 {
			errs = append(errs, fmt.Errorf("the life of %s, %s, is over a quarter of its signing key's, %s", name, ttl, c.AuthorityTTL))
		}
	}
	return errors.Join(errs...)
}

// MinTTL is the shortest life of an SVID: certificates count whole seconds.
const MinTTL = 2 * time.Second

// Option changes a default of Open.
type Option func(*CA)

// WithClock sets the clock; time.Now by default.
func WithClock(now func() time.Time) Option { return func(c *CA) { c.now = now } }

// WithLogger sets where rotations are logged; slog.Default by default.
func WithLogger(log *slog.Logger) Option { return func(c *CA) { c.log = log } }

// CA is a trust domain's signing authority. It is safe for concurrent use. The zero value is not usable; see Open.
type CA struct {
	config  Config
	store   *store
	now     func() time.Time
	log     *slog.Logger
	started time.Time

	mu          sync.Mutex
	rings       rings
	x509Changed chan struct{}
	jwtChanged  chan struct{}
}

// Open takes up the trust domain whose state is in dir, or founds it when dir was never used. It locks dir until Close. A
// state that is damaged, lost, another trust domain's, or open to others is an error.
func Open(dir string, config Config, opts ...Option) (*CA, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	c := &CA{
		config: config, now: time.Now, log: slog.Default(),
		x509Changed: make(chan struct{}), jwtChanged: make(chan struct{}),
	}
	for _, opt := range opts {
		opt(c)
	}
	c.started = c.now()
	st, err := openStore(dir, config.TrustDomain)
	if err != nil {
		return nil, err
	}
	c.store = st
	if c.rings, err = st.load(); err != nil {
		return nil, errors.Join(err, st.close())
	}
	if err := c.Rotate(); err != nil {
		return nil, errors.Join(err, st.close())
	}
	return c, nil
}

// Close unlocks the state. The CA signs nothing afterwards that would have to be written down.
func (c *CA) Close() error { return c.store.close() }

// Run rotates the keys until ctx ends. A rotation that cannot be written down is logged and tried again: until then the keys stay
// as they are.
func (c *CA) Run(ctx context.Context) error {
	ticker := time.NewTicker(rotationInterval)
	defer ticker.Stop()
	failure := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := c.Rotate()
		switch {
		case err == nil:
			failure = ""
		case err.Error() != failure:
			failure = err.Error()
			c.log.ErrorContext(ctx, "the signing keys could not be rotated; trying again", "error", err)
		}
	}
}

// Rotate takes every step that is due: it writes the new state down, then puts it in force.
func (c *CA) Rotate() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	next, changes, err := c.step(now)
	if err != nil || len(changes) == 0 {
		return err
	}
	if err := c.store.save(next, now); err != nil {
		return err
	}
	x509Published := !sameKeys(c.rings.X509, next.X509)
	jwtPublished := !sameKeys(c.rings.JWT, next.JWT)
	c.rings = next
	for _, change := range changes {
		c.log.Info("a signing key changed its phase", "kind", change.kind, "authority_id", change.signer.ID,
			"change", change.what, "not_after", change.signer.NotAfter)
	}
	if x509Published {
		close(c.x509Changed)
		c.x509Changed = make(chan struct{})
	}
	if jwtPublished {
		close(c.jwtChanged)
		c.jwtChanged = make(chan struct{})
	}
	return nil
}

// step returns the rings as they should be now.
func (c *CA) step(now time.Time) (rings, []change, error) {
	schedule := schedule{
		now: now, started: c.started, ttl: c.config.SVIDTTL, wait: max(c.config.SVIDTTL, minPublished),
		kind: kindX509, mint: func() (signer, error) { return newX509Signer(c.config, now) },
	}
	x509Ring, changes, err := schedule.step(c.rings.X509)
	if err != nil {
		return rings{}, nil, fmt.Errorf("rotate the X.509 authority: %w", err)
	}
	schedule.ttl, schedule.kind = c.config.JWTTTL, kindJWT
	schedule.mint = func() (signer, error) { return newJWTSigner(c.config, now) }
	jwtRing, jwtChanges, err := schedule.step(c.rings.JWT)
	if err != nil {
		return rings{}, nil, fmt.Errorf("rotate the JWT key: %w", err)
	}
	return rings{X509: x509Ring, JWT: jwtRing}, append(changes, jwtChanges...), nil
}

// X509Changed returns a channel that is closed when the X.509 bundle changes. Call it before the bundle is read.
func (c *CA) X509Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.x509Changed
}

// JWTChanged returns a channel that is closed when the JWT bundle changes. Call it before the bundle is read.
func (c *CA) JWTChanged() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jwtChanged
}

// TrustDomain returns the trust domain.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.config.TrustDomain }

// Now returns the time on the CA's clock.
func (c *CA) Now() time.Time { return c.now() }

// Expiry returns when the active X.509 authority and the active JWT key expire. The error is ErrNotReady when one of the two
// cannot sign now.
func (c *CA) Expiry() (x509NotAfter, jwtNotAfter time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	x509Signer, okX509 := c.rings.X509.usable(now)
	jwtSigner, okJWT := c.rings.JWT.usable(now)
	if !okX509 || !okJWT {
		return time.Time{}, time.Time{}, ErrNotReady
	}
	return x509Signer.NotAfter, jwtSigner.NotAfter, nil
}

// signing is one consistent look at a ring: everything that a signature needs.
type signing struct {
	now  time.Time
	with signer
	ring ring
}

// begin fixes the moment of a signature that lives for ttl at most. Time and key are taken together, under the lock that a
// rotation takes, so that a key that is old by then never signs anything that outlives its place in the bundle.
func (c *CA) begin(pick func(*rings) *ring, ttl time.Duration) (signing, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	current := *pick(&c.rings)
	active, ok := current.usable(now)
	if !ok {
		return signing{}, ErrNotReady
	}
	if ttl <= active.LongestTTL {
		return signing{now: now, with: active, ring: current}, nil
	}
	// How long the key must stay published when it is old depends on the longest life that it ever gave; a restart must not
	// forget that.
	active.LongestTTL = ttl
	next := c.rings
	*pick(&next) = current.with(active)
	if err := c.store.save(next, now); err != nil {
		return signing{}, err
	}
	c.rings = next
	return signing{now: now, with: active, ring: *pick(&next)}, nil
}
