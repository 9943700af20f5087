package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/svidfile"
)

type svidCommand struct {
	Show  svidShowCommand  `cmd:"" help:"Show it."`
	Write svidWriteCommand `cmd:"" help:"Write svid.pem, key.pem and bundle.pem, for programs that know nothing of SPIFFE."`
	Watch svidWatchCommand `cmd:"" help:"Show each new one as it comes, until Ctrl-C."`
}

type svidShowCommand struct{ workload }

func (c *svidShowCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(self *dial.Workload) error {
		svid, err := self.GetX509SVID()
		if err != nil {
			return err
		}
		bundle, err := self.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
		if err != nil {
			return err
		}
		leaf := svid.Certificates[0]
		for _, line := range [][2]string{
			{"SPIFFE ID", s.out.Say(console.Strong, svid.ID.String())},
			{"serial", serial(leaf)},
			{"valid", stamp(leaf.NotBefore) + " to " + stamp(leaf.NotAfter)},
			{"expires in", console.Span(time.Until(leaf.NotAfter))},
			{"DNS names", or(strings.Join(leaf.DNSNames, ", "))},
			{"chain", fmt.Sprintf("%d certificates", len(svid.Certificates))},
			{"bundle", fmt.Sprintf("%d authorities of %s", len(bundle.X509Authorities()), bundle.TrustDomain())},
		} {
			s.out.Printf("%s  %s\n", s.out.Say(console.Faint, fmt.Sprintf("%-10s", line[0])), line[1])
		}
		return nil
	})
}

type svidWriteCommand struct {
	workload
	Dir   string `required:"" placeholder:"DIR" help:"Where to; made if it is not there, for you alone."`
	Watch bool   `help:"Stay, and write each new SVID as it comes, until Ctrl-C."`
}

func (c *svidWriteCommand) Run(ctx context.Context, s *session) error {
	log := slog.New(slog.DiscardHandler)
	if c.Watch {
		log = s.log
	}
	return c.logged(ctx, s, log, func(self *dial.Workload) error {
		write := func(svid *x509svid.SVID) error {
			bundle, err := self.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
			if err != nil {
				return err
			}
			if err := svidfile.Write(c.Dir, svid, bundle); err != nil {
				return err
			}
			s.out.Printf("%s is in %s: svid.pem, key.pem, bundle.pem; it expires in %s.\n",
				svid.ID, c.Dir, console.Span(time.Until(svid.Certificates[0].NotAfter)))
			return nil
		}
		if c.Watch {
			return follow(ctx, s, self, write)
		}
		svid, err := self.GetX509SVID()
		if err != nil {
			return err
		}
		return write(svid)
	})
}

type svidWatchCommand struct{ workload }

func (c *svidWatchCommand) Run(ctx context.Context, s *session) error {
	var last string
	return c.logged(ctx, s, s.log, func(self *dial.Workload) error {
		return follow(ctx, s, self, func(svid *x509svid.SVID) error {
			leaf := svid.Certificates[0]
			if serial(leaf) == last { // it is the bundles that have changed
				return nil
			}
			last = serial(leaf)
			s.out.Printf("%s  %s  serial %s  until %s\n", time.Now().Format(time.TimeOnly), svid.ID, serial(leaf), stamp(leaf.NotAfter))
			return nil
		})
	})
}

// follow calls f with the SVID at every change of it or of the bundles, until the command ends. While there is none it says why.
func follow(ctx context.Context, s *session, self *dial.Workload, f func(*x509svid.SVID) error) error {
	for {
		changed := self.Changed() // before the SVID is read, so that no change is missed
		svid, err := self.GetX509SVID()
		if err != nil {
			s.err.Printf("%s  %v\n", time.Now().Format(time.TimeOnly), err)
		} else if err := f(svid); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

func stamp(t time.Time) string { return t.Local().Format(time.RFC3339) }
