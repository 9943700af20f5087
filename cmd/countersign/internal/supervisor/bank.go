package supervisor

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/edge"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// opsOffset is how far a service's ops port is above its gRPC port.
const opsOffset = 100

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
	// doors are where customers come in, by their flags.
	doors []door
}

// door is a port that is for customers, who are no workloads of the mesh.
type door struct {
	flag, name string
	offset     int
}

// The doors' ports, above the base port.
const (
	edgeOffset  = 10
	restOffset  = 11
	loginOffset = 12
)

func services() []service {
	return []service{
		{name: "gateway", offset: 0, tier: 6, calls: []string{"accounts", "payments", "ledger", "login", "audit"}, doors: []door{
			{"--edge-listen", "gateway, edge", edgeOffset}, {"--rest-listen", "gateway, REST", restOffset},
		}},
		{name: "accounts", offset: 1, tier: 4, calls: []string{"ledger", "login", "audit"}, stores: true, bank: true},
		{name: "payments", offset: 2, tier: 5, calls: []string{"accounts", "risk", "ledger", "login", "audit"}, stores: true, bank: true},
		{name: "ledger", offset: 3, tier: 3, calls: []string{"login", "audit"}, stores: true, bank: true},
		{name: "risk", offset: 4, tier: 2, calls: []string{"audit"}, stores: true, bank: true},
		{name: "audit", offset: 5, tier: 1, stores: true},
		{name: "login", offset: 6, tier: 2, calls: []string{"audit"}, stores: true, bank: true, doors: []door{
			{"--edge-listen", "login, edge", loginOffset},
		}},
	}
}

// actors are the copies of the CLI that countersign demo acts through.
func actors() []string { return []string{"burglar", "accounts-burglar", "gateway-burglar"} }

// binaries are the files that a mesh needs, relative to the directory of the programs.
func binaries() []string {
	names := []string{"countersign"}
	for _, actor := range actors() {
		names = append(names, filepath.Join("actors", actor))
	}
	for _, s := range services() {
		names = append(names, s.name)
	}
	return names
}

// Program is one program to start.
type Program struct {
	Name, SPIFFEID, Address, OpsAddress string
	// Doors are where customers connect.
	Doors []string
	// AgentAddress is where a SPIRE server has its agent call it.
	AgentAddress string
	Path         string
	Args, Env    []string
	// Tier is when it stops: the highest first. The programs of tier 0 serve the Workload API and start before the others, one after another.
	Tier int
	// Before is what has to be done before it starts, once those before it run; nil when there is nothing. What it says it has done, if
	// anything, is the first line of the program's log.
	Before func(context.Context) (said string, err error)
}

// programs turns settings into the programs to start. ports maps an offset to a port.
func programs(s Settings, trustDomain, socket string, ports map[int]int) []Program {
	address := func(offset int) string { return loopback(ports[offset]) }
	list := s.issuer().programs(s, trustDomain, socket, ports)
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
		for _, d := range svc.doors {
			p.Doors = append(p.Doors, address(d.offset))
			p.Args = append(p.Args, d.flag+"="+address(d.offset))
		}
		if svc.doors != nil {
			p.Args = append(p.Args, edgeArgs(s.Dir, ports)...)
		}
		list = append(list, p)
	}
	return list
}

// edgeArgs are what both that serve customers are told: what to show them, and who issues their tokens.
func edgeArgs(dir rundir.Dir, ports map[int]int) []string {
	cert := edge.Dir(dir.Edge())
	return []string{"--edge-cert=" + cert.Cert(), "--edge-key=" + cert.Key(), "--issuer=" + doors(dir, ports).Issuer}
}

// doors are where customers find the bank. The issuer's URL has the name that a person would write.
func doors(dir rundir.Dir, ports map[int]int) rundir.Edge {
	return rundir.Edge{
		GRPC: loopback(ports[edgeOffset]), REST: loopback(ports[restOffset]), Login: loopback(ports[loginOffset]),
		Issuer: "https://localhost:" + strconv.Itoa(ports[loginOffset]), Root: edge.Dir(dir.Edge()).Root(),
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// recorded is the program as the record has it before it was started.
func (p Program) recorded(dir rundir.Dir) rundir.Program {
	return rundir.Program{Name: p.Name, SPIFFEID: p.SPIFFEID, Address: p.Address, OpsAddress: p.OpsAddress, Log: dir.Log(p.Name)}
}
