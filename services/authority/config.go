package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/pkg/settings"
	"github.com/countersign-mesh/countersign/services/authority/internal/ca"
)

const description = `The SPIFFE Workload API and signing authority of one trust domain.

Of --socket and --sockets at least one must be given. Whether an authority is ready: authority healthcheck --help`

// opsListen is the default of --ops-listen.
const opsListen = "127.0.0.1:7549"

// config is the authority's settings.
type config struct {
	TrustDomain  settings.TrustDomain `required:"" placeholder:"NAME" help:"The trust domain, such as bank.test."`
	Socket       string               `placeholder:"PATH" help:"The unix socket to serve the Workload API on, for processes of this machine: who connects is known by its uid and its executable. Its directory must belong to this user and be writable for nobody else; it decides who can reach the socket."`
	Sockets      string               `placeholder:"DIR" help:"Where to serve a socket DIR/NAME/api.sock for each NAME that a selector socket:NAME in the registration file asks for, for containers: who connects there is NAME, whatever program it is, so that each directory belongs into one container only. The rules for the directory of --socket hold for each."`
	StateDir     string               `required:"" placeholder:"DIR" help:"Where the signing keys are kept, mode 0700. Made when missing; what is in there must never be lost."`
	Entries      settings.File        `required:"" placeholder:"FILE" help:"The registration file: which process gets which identity. Watched, reloaded."`
	SVIDTTL      settings.Duration    `name:"svid-ttl" default:"1h" help:"How long X.509-SVIDs live where an entry does not say; renewed at half of it."`
	AuthorityTTL settings.Duration    `name:"authority-ttl" default:"24h" help:"How long a signing key lives; the next one is published at half of it."`
	JWTSVIDTTL   optionalDuration     `name:"jwt-svid-ttl" placeholder:"DURATION" help:"How long JWT-SVIDs live; by default 5m, or a quarter of --authority-ttl where that is less."`
	OpsListen    settings.Address     `default:"127.0.0.1:7549" help:"Where to serve /livez, /readyz and /metrics over plaintext HTTP."`
	LogLevel     settings.Level       `default:"info" help:"debug, info, warn or error."`
	LogFormat    settings.LogFormat   `default:"text" help:"text or json."`
}

// optionalDuration is a settings.Duration that may be left out.
type optionalDuration string

// Check reports what is wrong with the duration.
func (d *optionalDuration) Check() error {
	if *d == "" {
		return nil
	}
	v := settings.Duration(*d)
	return v.Check()
}

// defaultJWTTTL is short: a JWT-SVID is a bearer token (JWT-SVID §5).
const defaultJWTTTL = 5 * time.Minute

func (c config) jwtTTL() time.Duration {
	if c.JWTSVIDTTL == "" {
		return min(defaultJWTTTL, c.AuthorityTTL.Value()/4)
	}
	return settings.Duration(c.JWTSVIDTTL).Value()
}

// authority is what the signing authority is made for.
func (c config) authority(td spiffeid.TrustDomain) ca.Config {
	return ca.Config{TrustDomain: td, AuthorityTTL: c.AuthorityTTL.Value(), SVIDTTL: c.SVIDTTL.Value(), JWTTTL: c.jwtTTL()}
}

// check judges the settings that must fit each other.
func (c config) check() error {
	return errors.Join(c.checkSockets(), c.checkTTLs())
}

func (c config) checkSockets() error {
	if c.Socket != "" || c.Sockets != "" {
		return nil
	}
	return errors.New("--socket, --sockets: both are missing, so that nobody could reach the Workload API; right would be --socket=PATH for processes of this machine, --sockets=DIR for containers, or both")
}

func (c config) checkTTLs() error {
	longest := min(ca.MaxTTL, c.AuthorityTTL.Value()/4)
	if longest < ca.MinTTL {
		return fmt.Errorf("--authority-ttl: %s is too short; right would be %s or more", c.AuthorityTTL, 4*ca.MinTTL)
	}
	var errs []error
	for _, f := range []struct {
		flag  string
		value time.Duration
	}{{"--svid-ttl", c.SVIDTTL.Value()}, {"--jwt-svid-ttl", c.jwtTTL()}} {
		if f.value < ca.MinTTL || f.value > longest {
			errs = append(errs, fmt.Errorf("%s: %s does not fit; right would be %s to %s, a quarter of --authority-ttl and at most %s",
				f.flag, f.value, ca.MinTTL, longest, ca.MaxTTL))
		}
	}
	return errors.Join(errs...)
}
