package main

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
)

// workload are the flags of a command that has an identity.
type workload struct {
	Socket string `env:"SPIFFE_ENDPOINT_SOCKET" placeholder:"unix:///PATH" help:"The SPIFFE Workload API; by default that of the mesh."`
}

// with runs f with this process's identity. What goes wrong meanwhile is in f's error, and not logged as well.
func (w workload) with(ctx context.Context, s *session, f func(*dial.Workload) error) (err error) {
	return w.logged(ctx, s, slog.New(slog.DiscardHandler), f)
}

// logged is with for a command that stays: it also logs how the identity fares.
func (w workload) logged(ctx context.Context, s *session, log *slog.Logger, f func(*dial.Workload) error) (err error) {
	endpoint, err := s.mesh.Endpoint(w.Socket)
	if err != nil {
		return err
	}
	self, err := dial.Open(ctx, endpoint, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, self.Close()) }()
	return f(self)
}

// server is who a command talks to.
type server struct {
	Addr   string `arg:"" expects:"a server, such as payments" help:"HOST:PORT, or the name of a service of the mesh."`
	Expect string `placeholder:"ID" help:"The SPIFFE ID that the server must have, such as spiffe://bank.test/ledger or, in the own trust domain, /ledger. Known for a service's name."`
}

// dialled runs f with a connection to the server.
func (to server) dialled(ctx context.Context, s *session, w workload, f func(*dial.Workload, *grpc.ClientConn) error) error {
	return w.with(ctx, s, func(self *dial.Workload) (err error) {
		target, err := s.mesh.Target(self.ID().TrustDomain(), to.Addr, to.Expect)
		if err != nil {
			return err
		}
		conn, err := self.Dial(target)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		return f(self, conn)
	})
}
