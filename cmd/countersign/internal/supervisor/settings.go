// Package supervisor runs the bank's mesh on one machine: who serves the Workload API and the seven services, started together, watched,
// and stopped together, with nothing left behind.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/pkg/settings"
)

// Settings say how to run the mesh.
type Settings struct {
	// Dir is where the mesh keeps its state.
	Dir rundir.Dir
	// Bin is the directory of the programs.
	Bin string
	// Policy, Registration and RiskRules are files. Empty ones are deploy/policy/bank.yaml, deploy/registration/bank.yaml and
	// deploy/risk/bank.yaml in the directory that Bin is in.
	Policy, Registration, RiskRules string
	// DSN is where the bank keeps its state, with servicePlace where a database's name has that of its service. When it is empty each service
	// has a SQLite file in Dir.
	DSN string
	// BasePort is the gateway's port, and the others follow from it; 0 chooses free ports.
	BasePort int
	// SVIDTTL and AuthorityTTL are how long SVIDs and the signing authority live; the authority's default when zero.
	SVIDTTL, AuthorityTTL time.Duration
	// SPIRE has a SPIRE server and agent serve the Workload API, from SPIREBin or, when that is empty, the PATH.
	SPIRE    bool
	SPIREBin string
	LogLevel string
	// StartTimeout bounds the start, StopTimeout the stop before what is left is killed.
	StartTimeout, StopTimeout time.Duration

	found issuer
}

// resolve makes every path absolute and checks that what must be there is there. It reports all that is missing at once.
func (s Settings) resolve(ctx context.Context) (Settings, error) {
	var err error
	// The authority compares the path that the kernel has for a process, which has no symbolic links in it.
	if s.Bin, err = realPath(s.Bin); err != nil {
		return s, fmt.Errorf("--bin: %w", err)
	}
	root := filepath.Dir(s.Bin)
	var errs []error
	for _, file := range []struct {
		path           *string
		flag, fallback string
	}{
		{&s.Policy, "--policy", "deploy/policy/bank.yaml"},
		{&s.Registration, "--registration", "deploy/registration/bank.yaml"},
		{&s.RiskRules, "--risk-rules", "deploy/risk/bank.yaml"},
	} {
		if *file.path == "" {
			*file.path = filepath.Join(root, file.fallback)
		}
		if *file.path, err = realPath(*file.path); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file.flag, err))
		}
	}
	highest := slices.Max(slices.Collect(maps.Keys(offsets(s.issuer()))))
	if s.BasePort != 0 && (s.BasePort < 1 || s.BasePort+highest > 65535) {
		errs = append(errs, fmt.Errorf("--base-port: %d is not 0 (free ports) or 1 to %d: the mesh uses ports up to %d above it",
			s.BasePort, 65535-highest, highest))
	}
	errs = append(errs, s.checkDSN(), checkPrograms(s.Bin, binaries()))
	s.found, err = s.issuer().find(ctx, s)
	return s, errors.Join(append(errs, err)...)
}

// issuer is who serves the Workload API; once the settings are resolved, as it was found on this machine.
func (s Settings) issuer() issuer {
	switch {
	case s.found != nil:
		return s.found
	case s.SPIRE:
		return spireIssuer{}
	default:
		return embedded{}
	}
}

// servicePlace is what the name of a service takes the place of in a DSN.
const servicePlace = "{service}"

// checkDSN says what is wrong with the DSN. It may hold a password, so it is not shown.
func (s Settings) checkDSN() error {
	if s.DSN == "" {
		return nil
	}
	dsn := settings.DSN(s.DSN)
	if err := dsn.Check(); err != nil {
		return fmt.Errorf("--dsn: %w", err)
	}
	if !strings.Contains(databaseOf(s.DSN), servicePlace) {
		return fmt.Errorf("--dsn: each service needs a database of its own, so %s must be a part of its name; right would be postgres://bank@localhost/%s",
			servicePlace, servicePlace)
	}
	return nil
}

// databaseOf returns the part of a DSN that names the database: the path of a URL, and of sqlite:PATH.
func databaseOf(dsn string) string {
	_, rest, _ := strings.Cut(dsn, ":")
	if host, ok := strings.CutPrefix(rest, "//"); ok {
		_, rest, _ = strings.Cut(host, "/")
	}
	name, _, _ := strings.Cut(rest, "?")
	return name
}

// checkPrograms says which of our programs are missing and how to make them.
func checkPrograms(bin string, names []string) error {
	var missing []string
	for _, name := range names {
		info, err := os.Stat(filepath.Join(bin, name))
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("--bin: %s lacks %q; build what is missing with: make build", bin, missing)
}

func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path, err
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return path, err
	}
	return resolved, nil
}
