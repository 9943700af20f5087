package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/site"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

type peersCommand struct {
	server
	workload
}

func (c *peersCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(self *dial.Workload) error {
		target, err := s.mesh.Target(self.ID().TrustDomain(), c.Addr, c.Expect)
		if err != nil {
			return err
		}
		servers := s.mesh.Servers(ctx, site.Service{Name: c.Addr, Target: target})
		if len(servers) == 1 {
			list, err := peersOf(ctx, self, servers[0])
			if err != nil {
				return err
			}
			showPeers(s.out, list, time.Now())
			return nil
		}
		return peersOfEach(ctx, s, self, servers)
	})
}

// peersOfEach shows the connections of each of several servers, and fails when one could not be asked: its peers are not among those shown.
func peersOfEach(ctx context.Context, s *session, self *dial.Workload, servers []site.Service) error {
	ctx, cancel := context.WithTimeout(ctx, askBound)
	defer cancel()
	lists, errs := make([][]*adminv1.Connection, len(servers)), make([]error, len(servers))
	var group sync.WaitGroup
	for i, server := range servers {
		group.Go(func() { lists[i], errs[i] = peersOf(ctx, self, server) })
	}
	group.Wait()
	var rows [][]console.Cell
	var silent []string
	now := time.Now()
	for i, server := range servers {
		if errs[i] != nil {
			silent = append(silent, fmt.Sprintf("%s: %v", server.Name, errs[i]))
		}
		for _, c := range lists[i] {
			rows = append(rows, append([]console.Cell{{Text: server.Name, Tone: console.Strong}}, peerRow(c, now)...))
		}
	}
	if len(rows) > 0 {
		s.out.Table(append([]string{"server"}, peerColumns()...), rows)
	}
	return listed("%d of %s could not be asked", silent, plural(len(servers), "server"))
}

// peersOf asks one server.
func peersOf(ctx context.Context, self *dial.Workload, server site.Service) (list []*adminv1.Connection, err error) {
	conn, err := self.Dial(server.Target)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	list, err = admin.Connections(ctx, conn)
	return list, dial.Explain(err)
}

// showPeers never shows an empty table: who asks is connected too.
func showPeers(out *console.Console, list []*adminv1.Connection, now time.Time) {
	var rows [][]console.Cell
	for _, c := range list {
		rows = append(rows, peerRow(c, now))
	}
	out.Table(peerColumns(), rows)
}

func peerColumns() []string {
	return []string{"peer", "direction", "serial", "remote address", "age", "expires in", "calls", "authority"}
}

func peerRow(c *adminv1.Connection, now time.Time) []console.Cell {
	return []console.Cell{
		{Text: c.GetPeerId(), Tone: console.Strong},
		{Text: directionOf(c)},
		{Text: c.GetPeerSerial()},
		{Text: c.GetRemoteAddress()},
		{Text: console.Span(now.Sub(c.GetOpenTime().AsTime()))},
		{Text: remaining(c.GetExpireTime().AsTime().Sub(now))},
		{Text: strconv.FormatInt(c.GetCalls(), 10)},
		{Text: c.GetPeerAuthority()}, // last and whole: it is long, and what revoke --authority takes
	}
}

func directionOf(c *adminv1.Connection) string {
	if c.GetDirection() == adminv1.Direction_DIRECTION_INBOUND {
		return "inbound"
	}
	return "outbound"
}
