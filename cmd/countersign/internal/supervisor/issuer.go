package supervisor

import (
	"context"
	"path/filepath"
	"time"
)

// issuer is who serves the Workload API: it attests the mesh's processes and signs their SVIDs. The services cannot tell one from another.
type issuer interface {
	// String says in a few words who it is.
	String() string
	// find looks for what it needs on this machine, and says what is missing or does not fit the settings. It returns what was found.
	find(ctx context.Context, s Settings) (issuer, error)
	// users are its ports, by their offset from the base port, and who has them.
	users() map[int]string
	// programs are what to start, in this order, before the first service.
	programs(s Settings, trustDomain, socket string, ports map[int]int) []Program
	// serverSocket is the socket of an administrative API, beside that of the Workload API; empty when there is none.
	serverSocket(socket string) string
}

// issuerOpsOffset is how far the ops port of an issuer's first program is above the base port.
const issuerOpsOffset = 120

// authority is the embedded issuer.
const authority = "authority"

type embedded struct{}

func (embedded) String() string { return "the embedded authority" }

func (e embedded) find(_ context.Context, s Settings) (issuer, error) {
	return e, checkPrograms(s.Bin, []string{authority})
}

func (embedded) users() map[int]string { return map[int]string{issuerOpsOffset: "authority, ops"} }

func (embedded) serverSocket(string) string { return "" }

func (embedded) programs(s Settings, trustDomain, socket string, ports map[int]int) []Program {
	ops := loopback(ports[issuerOpsOffset])
	return []Program{{Name: authority, OpsAddress: ops, Path: filepath.Join(s.Bin, authority), Args: authorityArgs(s, trustDomain, socket, ops)}}
}

func authorityArgs(s Settings, trustDomain, socket, ops string) []string {
	args := []string{
		"--trust-domain=" + trustDomain, "--socket=" + socket, "--state-dir=" + s.Dir.Authority(),
		"--entries=" + s.Dir.Registration(), "--ops-listen=" + ops, "--log-level=" + s.LogLevel,
	}
	for flag, d := range map[string]time.Duration{"--svid-ttl": s.SVIDTTL, "--authority-ttl": s.AuthorityTTL} {
		if d > 0 {
			args = append(args, flag+"="+d.String())
		}
	}
	return args
}
