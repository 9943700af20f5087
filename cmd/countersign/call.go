package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
)

type callCommand struct {
	server
	workload
	Method string        `arg:"" expects:"a method, such as CheckTrialBalance" help:"Package.Service/Method; the method alone where only one service known here has it."`
	Data   string        `short:"d" placeholder:"JSON" help:"The request: JSON, @FILE, or - for standard input. Several, one after another, for a client stream. Empty by default."`
	Wait   time.Duration `name:"timeout" placeholder:"DURATION" help:"How long the call may take. Without it as long as it likes: streams end with Ctrl-C."`
}

func (c *callCommand) Run(ctx context.Context, s *session) error {
	in, done, err := requests("-d", c.Data, s.stdin)
	if err != nil {
		return err
	}
	return errors.Join(c.dialled(ctx, s, c.workload, func(_ *dial.Workload, conn *grpc.ClientConn) error {
		bounded := ctx
		if c.Wait > 0 {
			var cancel context.CancelFunc
			bounded, cancel = context.WithTimeout(ctx, c.Wait)
			defer cancel()
		}
		err := dial.Call(bounded, conn, c.Method, in, s.stdout)
		if streamEnded(ctx, err) {
			return nil
		}
		return err
	}), done())
}

// streamEnded reports whether err is only how a server's stream looks that Ctrl-C ended. Some streams have no other end; every
// other call that was interrupted, and any that took too long, did not do what it was to do.
func streamEnded(interrupted context.Context, err error) bool {
	failed, ok := errors.AsType[*dial.StatusError](err)
	return ok && failed.Stream && failed.Status.Code() == codes.Canceled && interrupted.Err() != nil
}

// requests opens what a flag names.
func requests(flag, data string, stdin io.Reader) (in io.Reader, done func() error, err error) {
	nothing := func() error { return nil }
	switch {
	case data == "-":
		return stdin, nothing, nil
	case strings.HasPrefix(data, "@"):
		file, err := os.Open(data[1:])
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", flag, err)
		}
		return file, file.Close, nil
	default:
		return strings.NewReader(data), nothing, nil
	}
}

type proxyCommand struct {
	server
	workload
	Listen string `default:"127.0.0.1:9000" placeholder:"HOST:PORT" help:"Where to serve; loopback only (${default})."`
}

func (c *proxyCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(self *dial.Workload) error {
		target, err := s.mesh.Target(self.ID().TrustDomain(), c.Addr, c.Expect)
		if err != nil {
			return err
		}
		listener, err := dial.ListenLoopback(ctx, c.Listen)
		if err != nil {
			return err
		}
		s.out.Printf("%s is %s here, for every program on this machine.\n", s.out.Say(console.Strong, listener.Addr().String()), target)
		s.out.Printf("Whoever connects acts as %s. Try: grpcurl -plaintext %s list\nCtrl-C ends it.\n", self.ID(), listener.Addr())
		return dial.NewProxy(self, target, s.log).Serve(ctx, listener)
	})
}
