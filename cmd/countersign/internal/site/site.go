// Package site is a mesh as a command meets it: who serves where and must have which SPIFFE ID, which file is its policy, and where this
// process gets its identity. A command does not care who started the mesh: `countersign up` leaves all of this in its run directory, and of
// any other mesh, such as one in containers, a mesh file says it.
package site

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// Site is a mesh. It is immutable.
type Site struct {
	// Name is what the mesh is called where several may be meant: "the mesh in /home/alice/.countersign".
	Name        string
	TrustDomain spiffeid.TrustDomain
	// WorkloadAPI is the Workload API's endpoint. It is empty where a mesh file leaves that to the environment.
	WorkloadAPI string
	// Policy is the policy file, empty when a mesh file names none.
	Policy string
	// SVIDTTL is how long an SVID lives, 0 when a mesh file does not say.
	SVIDTTL  time.Duration
	Services []Service
	// Edge is where customers come in; empty where a mesh file does not say.
	Edge rundir.Edge
	// ActorPrograms is the directory of the programs that an actor may be started from, and ActorSockets that of the sockets of actors that
	// run already: the one or the other, or neither.
	ActorPrograms, ActorSockets string
}

// Service is a server of a mesh.
type Service struct {
	Name string
	dial.Target
}

// Find returns the service with this name.
func (s Site) Find(name string) (Service, error) {
	var names []string
	for _, service := range s.Services {
		if service.Name == name {
			return service, nil
		}
		names = append(names, service.Name)
	}
	return Service{}, fmt.Errorf("%s has no service %q; it has %s", s.Name, name, strings.Join(names, ", "))
}

// ID returns the SPIFFE ID of the workload that has this name as its path.
func (s Site) ID(name string) (spiffeid.ID, error) { return spiffeid.FromSegments(s.TrustDomain, name) }

// fromRecord is the mesh that runs in dir.
func fromRecord(dir rundir.Dir, r rundir.Record) (Site, error) {
	s := Site{
		Name: "the mesh in " + dir.String(), WorkloadAPI: r.WorkloadAPI, Policy: r.Policy, SVIDTTL: r.SVIDTTL, ActorPrograms: r.Actors(), Edge: r.Edge,
	}
	var err error
	if s.TrustDomain, err = spiffeid.TrustDomainFromString(r.TrustDomain); err != nil {
		return Site{}, fmt.Errorf("%s: %w", s.Name, err)
	}
	for _, program := range r.Programs {
		if program.Address == "" {
			continue // who gives identities, and has none
		}
		id, err := spiffeid.FromString(program.SPIFFEID)
		if err != nil {
			return Site{}, fmt.Errorf("%s: the SPIFFE ID of %s: %w", s.Name, program.Name, err)
		}
		s.Services = append(s.Services, Service{Name: program.Name, Target: dial.Target{Address: program.Address, ID: id}})
	}
	return s, nil
}

// Finder finds the mesh that commands are about.
type Finder struct {
	// File is a mesh file. When it is set, whatever runs in Dir is not looked at.
	File string
	// Dir is where `countersign up` leaves its traces.
	Dir rundir.Dir
	// Resolver finds the servers behind a service's name; nil is the system's.
	Resolver Resolver
}

// Find returns the mesh. The error is a rundir.ErrNoMesh when no file is named and none runs.
func (f Finder) Find() (Site, error) {
	if f.File != "" {
		return Read(f.File)
	}
	r, err := f.Dir.Running()
	if errors.Is(err, rundir.ErrNoMesh) {
		return Site{}, fmt.Errorf("%w; or say with --mesh where another one is", err)
	}
	if err != nil {
		return Site{}, err
	}
	return fromRecord(f.Dir, r)
}

// Endpoint returns the Workload API's endpoint: the one given, else the mesh's.
func (f Finder) Endpoint(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	s, err := f.Find()
	if errors.Is(err, rundir.ErrNoMesh) {
		return "", fmt.Errorf("which Workload API? Neither --socket nor SPIFFE_ENDPOINT_SOCKET is set, and %w", err)
	}
	if err == nil && s.WorkloadAPI == "" {
		return "", fmt.Errorf("which Workload API? Neither --socket nor SPIFFE_ENDPOINT_SOCKET is set, and %s says no workload_api", s.Name)
	}
	return s.WorkloadAPI, err
}

// Target makes a dial.Target of what a person wrote. addr is HOST:PORT, or the name of a service of the mesh. expect is the server's SPIFFE
// ID, whole, or short for one of own's trust domain; for a name it may be left out.
func (f Finder) Target(own spiffeid.TrustDomain, addr, expect string) (dial.Target, error) {
	target := dial.Target{Address: addr}
	if !strings.Contains(addr, ":") {
		service, err := f.service(addr)
		if err != nil {
			return dial.Target{}, err
		}
		if target = service.Target; expect == "" {
			return target, nil
		}
	}
	if expect == "" {
		return dial.Target{}, fmt.Errorf("who must answer at %s? Say it with --expect, such as --expect /ledger", addr)
	}
	var err error
	if strings.HasPrefix(expect, "/") {
		target.ID, err = spiffeid.FromPath(own, expect)
	} else {
		target.ID, err = spiffeid.FromString(expect)
	}
	if err == nil && target.ID.Path() == "" {
		err = errors.New("it names a trust domain and no workload")
	}
	if err != nil {
		return dial.Target{}, fmt.Errorf("--expect: %q is no SPIFFE ID: %w; right would be /ledger or spiffe://bank.test/ledger", expect, err)
	}
	if _, _, err := net.SplitHostPort(target.Address); err != nil {
		return dial.Target{}, fmt.Errorf("%q is neither HOST:PORT nor the name of a service: %w", addr, err)
	}
	return target, nil
}

// service looks up a name that must be a service's, since it has no port.
func (f Finder) service(name string) (Service, error) {
	s, err := f.Find()
	if errors.Is(err, rundir.ErrNoMesh) {
		return Service{}, fmt.Errorf("%q has no port, so it must be a service of a mesh that runs here, but %w", name, err)
	}
	if err != nil {
		return Service{}, err
	}
	service, err := s.Find(name)
	if err != nil {
		return Service{}, fmt.Errorf("%q is not HOST:PORT, and %w", name, err)
	}
	return service, nil
}
