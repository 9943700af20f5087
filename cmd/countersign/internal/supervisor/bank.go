package supervisor

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// opsOffset is how far a service's ops port is above its gRPC port; authorityOffset is how far the authority's is above the
// base port.
const (
	opsOffset       = 100
	authorityOffset = 106
)

const authority = "authority"

// service is one of the bank's services: what it is called, where it stands and whom it calls.
type service struct {
	name string
	// offset of its port from the base port.
	offset int
	// tier is 1 above the highest of those it calls. The mesh stops from the highest tier down, so that nobody loses a service that
	// it still needs to finish what it accepted.
	tier  int
	calls []string
	// stores is whether it has a database, and bank whether what it keeps there is the bank's own: the audit trail is the mesh's.
	stores, bank bool
}

func services() []service {
	return []service{
		{name: "gateway", offset: 0, tier: 5, calls: []string{"accounts", "payments", "ledger", "audit"}},
		{name: "accounts", offset: 1, tier: 3, calls: []string{"ledger", "audit"}, stores: true, bank: true},
		{name: "payments", offset: 2, tier: 4, calls: []string{"accounts", "risk", "ledger", "audit"}, stores: true, bank: true},
		{name: "ledger", offset: 3, tier: 2, calls: []string{"audit"}, stores: true, bank: true},
		{name: "risk", offset: 4, tier: 2, calls: []string{"audit"}, stores: true, bank: true},
		{name: "audit", offset: 5, tier: 1, stores: true},
	}
}

// binaries are the files that a mesh needs, relative to the directory of the programs.
func binaries() []string {
	names := []string{authority, "countersign", filepath.Join("actors", "mobile"), filepath.Join("actors", "risk")}
	for _, s := range services() {
		names = append(names, s.name)
	}
	return names
}

// Program is one program to start.
type Program struct {
	Name, SPIFFEID, Address, OpsAddress string
	Path                                string
	Args, Env                           []string
	// Tier is when it stops: the highest first. The program of tier 0 serves the Workload API and starts before the others.
	Tier int
}

// programs turns settings into the programs to start. ports maps an offset to a port.
func programs(s Settings, trustDomain, socket string, ports map[int]int) []Program {
	address := func(offset int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[offset])) }
	list := []Program{{
		Name: authority, OpsAddress: address(authorityOffset), Path: filepath.Join(s.Bin, authority),
		Args: authorityArgs(s, trustDomain, socket, address(authorityOffset)),
	}}
	offsets := make(map[string]int)
	for _, svc := range services() {
		offsets[svc.name] = svc.offset
	}
	for _, svc := range services() {
		p := Program{
			Name: svc.name, SPIFFEID: "spiffe://" + trustDomain + "/" + svc.name, Tier: svc.tier,
			Address: address(svc.offset), OpsAddress: address(svc.offset + opsOffset), Path: filepath.Join(s.Bin, svc.name),
			Env: []string{"SPIFFE_ENDPOINT_SOCKET=unix://" + socket},
		}
		p.Args = []string{"--listen=" + p.Address, "--ops-listen=" + p.OpsAddress, "--policy=" + s.Policy, "--log-level=" + s.LogLevel}
		if s.StopTimeout > 0 {
			p.Args = append(p.Args, "--drain-timeout="+drainTimeout(s.StopTimeout).String())
		}
		for _, callee := range svc.calls {
			p.Args = append(p.Args, fmt.Sprintf("--%s=dns:///%s", callee, address(offsets[callee])))
		}
		switch {
		case svc.bank && s.DSN != "":
			// It may hold a password, and the arguments of a process are there for everybody on the machine to see.
			p.Env = append(p.Env, strings.ToUpper(svc.name)+"_DSN="+strings.ReplaceAll(s.DSN, servicePlace, svc.name))
		case svc.stores:
			p.Args = append(p.Args, "--dsn=sqlite:"+filepath.Join(s.Dir.Data(), svc.name+".db"))
		}
		if svc.name == "risk" {
			p.Args = append(p.Args, "--rules="+s.RiskRules)
		}
		list = append(list, p)
	}
	return list
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

// recorded is the program as the record has it before it was started.
func (p Program) recorded(dir rundir.Dir) rundir.Program {
	return rundir.Program{Name: p.Name, SPIFFEID: p.SPIFFEID, Address: p.Address, OpsAddress: p.OpsAddress, Log: dir.Log(p.Name)}
}
