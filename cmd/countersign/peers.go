package main

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/admin"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	adminv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/admin/v1"
)

type peersCommand struct {
	server
	workload
}

func (c *peersCommand) Run(ctx context.Context, s *session) error {
	return c.dialled(ctx, s, c.workload, func(_ *dial.Workload, conn *grpc.ClientConn) error {
		list, err := admin.Connections(ctx, conn)
		if err != nil {
			return dial.Explain(err)
		}
		showPeers(s.out, list, time.Now())
		return nil
	})
}

// showPeers never shows an empty table: who asks is connected too.
func showPeers(out *console.Console, list []*adminv1.Connection, now time.Time) {
	var rows [][]console.Cell
	for _, c := range list {
		rows = append(rows, []console.Cell{
			{Text: c.GetPeerId(), Tone: console.Strong},
			{Text: directionOf(c)},
			{Text: c.GetPeerSerial()},
			{Text: c.GetRemoteAddress()},
			{Text: console.Span(now.Sub(c.GetOpenTime().AsTime()))},
			{Text: remaining(c.GetExpireTime().AsTime().Sub(now))},
			{Text: strconv.FormatInt(c.GetCalls(), 10)},
			{Text: c.GetPeerAuthority()}, // last and whole: it is long, and what revoke --authority takes
		})
	}
	out.Table([]string{"peer", "direction", "serial", "remote address", "age", "expires in", "calls", "authority"}, rows)
}

func directionOf(c *adminv1.Connection) string {
	if c.GetDirection() == adminv1.Direction_DIRECTION_INBOUND {
		return "inbound"
	}
	return "outbound"
}
