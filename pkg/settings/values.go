package settings

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// Address is a host and port to listen on, such as "127.0.0.1:8443". Port 0 lets the kernel choose.
type Address string

// Check reports what is wrong with the address.
func (a *Address) Check() error {
	_, port, err := net.SplitHostPort(string(*a))
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT, such as 127.0.0.1:8443", string(*a))
	}
	return nil
}

// Target is where a service is reached, as gRPC writes it: "ledger:8443", "dns:///ledger:8443", "unix:///run/ledger.sock", or a
// name that another resolver knows, such as "xds:///ledger".
type Target string

// Check reports what is wrong with the target.
func (t *Target) Check() error {
	endpoint := string(*t)
	if scheme, rest, ok := strings.Cut(endpoint, "://"); ok {
		if scheme != "dns" && scheme != "passthrough" {
			return nil // its resolver knows what is right
		}
		endpoint = rest[strings.LastIndex(rest, "/")+1:] // after the authority
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || host == "" {
		return fmt.Errorf("%q is not a gRPC target with a port, such as dns:///ledger:8443", string(*t))
	}
	return nil
}

// Endpoint is the address of a SPIFFE Workload API (SPIFFE Workload Endpoint §4).
type Endpoint string

// Check reports what is wrong with the endpoint.
func (e *Endpoint) Check() error {
	if *e == "" {
		return errors.New("missing: set SPIFFE_ENDPOINT_SOCKET to the Workload API's socket, such as unix:///run/countersign/api.sock")
	}
	if err := workloadapi.ValidateAddress(string(*e)); err != nil {
		return fmt.Errorf("%q is no Workload API endpoint: %w; right would be unix:///PATH", string(*e), err)
	}
	return nil
}

// File is the path of a file that must be there.
type File string

// Check reports why the file cannot be read.
func (f *File) Check() error {
	info, err := os.Stat(string(*f))
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", string(*f))
	}
	return nil
}

// Duration is a length of time above zero, such as "90s" or "1h30m".
type Duration string

// Check reports what is wrong with the duration.
func (d *Duration) Check() error {
	v, err := time.ParseDuration(string(*d))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is not a duration above zero, such as 90s or 1h30m", string(*d))
	}
	return nil
}

// Value returns the duration; 0 when Check would fail.
func (d Duration) Value() time.Duration {
	v, _ := time.ParseDuration(string(d))
	return v
}

// Count is a number of things from 1 to a million, such as "512".
type Count string

// maxCount is more than anything that is counted in one process, and a typing error beyond.
const maxCount = 1_000_000

// Check reports what is wrong with the count.
func (c *Count) Check() error {
	if n, err := strconv.Atoi(string(*c)); err != nil || n < 1 || n > maxCount {
		return fmt.Errorf("%q is not a number from 1 to %d, such as 512", string(*c), maxCount)
	}
	return nil
}

// Value returns the count; 0 when Check would fail.
func (c Count) Value() int {
	if c.Check() != nil {
		return 0
	}
	n, _ := strconv.Atoi(string(c))
	return n
}

// TrustDomain is the name of a SPIFFE trust domain (SPIFFE-ID §2.1).
type TrustDomain string

// Check reports what is wrong with the name.
func (t *TrustDomain) Check() error {
	if _, err := spiffeid.TrustDomainFromString(string(*t)); err != nil {
		return fmt.Errorf("%q is no trust domain: %w; right would be bank.test", string(*t), err)
	}
	return nil
}

// Issuer is the URL that an OAuth 2.0 authorization server is known by (RFC 8414 §2). One without a path has its documents where everybody looks first (§3).
type Issuer string

// Check reports what is wrong with the URL.
func (i *Issuer) Check() error {
	u, err := url.Parse(string(*i))
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || "https://"+u.Host != string(*i) {
		return fmt.Errorf("%q is not a URL of an issuer, such as https://login.bank.test:8445: https, a host, and nothing after it", string(*i))
	}
	return nil
}

// DSN says where a service keeps its state: "sqlite:PATH" or "postgres://…".
type DSN string

// Check reports what is wrong with the DSN.
func (d *DSN) Check() error {
	const right = "sqlite:PATH, such as sqlite:/var/lib/ledger/ledger.db, or postgres://USER:PASSWORD@HOST:5432/DATABASE" //nolint:gosec // a pattern, and nobody's password
	// The rest of a DSN may hold a password.
	kind, rest, ok := strings.Cut(string(*d), ":")
	switch {
	case !ok:
		return errors.New("it has no kind; right would be " + right)
	case kind == "sqlite" && rest != "", (kind == "postgres" || kind == "postgresql") && strings.HasPrefix(rest, "//"):
		return nil
	case kind == "sqlite" || kind == "postgres" || kind == "postgresql":
		return fmt.Errorf("what follows %q is missing or not of its form; right would be %s", kind+":", right)
	case kindPattern.MatchString(kind):
		return fmt.Errorf("the kind %.20q is not supported; right would be %s", kind, right)
	default:
		return errors.New("it does not begin with a kind; right would be " + right)
	}
}

// kindPattern is what the beginning of a DSN looks like when it is the kind of a database; anything else may be a part of a password.
var kindPattern = regexp.MustCompile(`^[a-z][a-z0-9]*$`)
