package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/supervisor"
)

// statusBound is how long the services may take to say how they are.
const statusBound = 5 * time.Second

// served is how a service is, as far as it can be seen from outside.
type served struct {
	expires time.Time
	err     error
}

// ofFile shows the services of a mesh file. Nobody here knows their processes, so each is asked, by who it must be.
func (c *statusCommand) ofFile(ctx context.Context, s *session) error {
	mesh, err := s.mesh.Find()
	if err != nil {
		return err
	}
	servers := s.mesh.Servers(ctx, mesh.Services...)
	list := make([]served, len(servers))
	err = c.with(ctx, s, func(self *dial.Workload) error {
		ctx, cancel := context.WithTimeout(ctx, statusBound)
		defer cancel()
		var group sync.WaitGroup
		for i, server := range servers {
			group.Go(func() { list[i].expires, list[i].err = look(ctx, self, server) })
		}
		group.Wait()
		return nil
	})
	if err != nil {
		return err
	}
	return showServed(s, servers, list, site.Noun(mesh.Services, servers))
}

func showServed(s *session, servers []site.Service, list []served, noun string) error {
	var rows [][]console.Cell
	ready := 0
	for i, server := range servers {
		state, expires := console.Cell{Text: string(supervisor.StateReady), Tone: console.Good}, none
		if list[i].err != nil {
			state = console.Cell{Text: string(supervisor.StateNotReady), Tone: console.Bad}
		} else {
			ready++
		}
		if !list[i].expires.IsZero() {
			expires = remaining(time.Until(list[i].expires))
		}
		rows = append(rows, []console.Cell{{Text: server.Name, Tone: console.Strong}, state, {Text: server.ID.String()}, {Text: server.Address}, {Text: expires}})
	}
	s.out.Table([]string{"service", "state", "SPIFFE ID", "address", "SVID expires in"}, rows)
	for i, server := range servers {
		if err := list[i].err; err != nil {
			s.out.Printf("\n%s: %v\n", server.Name, err)
		}
	}
	if ready < len(list) {
		return fmt.Errorf("%d of %d %s are ready", ready, len(list), noun)
	}
	return nil
}

// look asks a server whether it is ready, and until when its SVID is good.
func look(ctx context.Context, self *dial.Workload, server site.Service) (expires time.Time, err error) {
	raw, peer, err := self.Handshake(ctx, server.Target)
	if err != nil {
		return time.Time{}, err
	}
	if err := raw.Close(); err != nil {
		return peer.NotAfter, err
	}
	conn, err := self.Dial(server.Target)
	if err != nil {
		return peer.NotAfter, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	r, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil && r.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("it says that it is %s", r.GetStatus())
	}
	return peer.NotAfter, dial.Explain(err)
}
