package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/feed"
	"github.com/countersign-mesh/countersign/pkg/audit/chain"
	"github.com/countersign-mesh/countersign/pkg/audit/trail"
	"github.com/countersign-mesh/countersign/pkg/database"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

const (
	// maxFindings is how many findings are shown.
	maxFindings = 20
	// maxSilence is how long the audit service may take for the next record while there is one.
	maxSilence = 30 * time.Second
)

type auditVerifyCommand struct {
	workload
	DB      string `name:"db" placeholder:"FILE" help:"Verify this database file instead of what the running audit service serves. It is only read."`
	Expect  string `placeholder:"POSITION:HASH" help:"A head that verify printed earlier: it must still be in the trail. This alone finds that the end was cut off, or all of it written anew."`
	Addr    string `default:"audit" placeholder:"ADDR" help:"The audit service: HOST:PORT, or the name of a service of the mesh that runs in --run-dir (${default})."`
	Service string `default:"/audit" placeholder:"ID" help:"The SPIFFE ID that it must have (${default})."`
}

// Validate implements kong's check of a command.
func (c *auditVerifyCommand) Validate() error {
	_, err := c.verifier()
	return err
}

func (c *auditVerifyCommand) verifier() (*chain.Verifier, error) {
	if c.Expect == "" {
		return chain.NewVerifier(), nil
	}
	head, err := chain.ParseHead(c.Expect)
	if err != nil {
		return nil, fmt.Errorf("--expect: %w", err)
	}
	return chain.NewVerifier(head), nil
}

func (c *auditVerifyCommand) Run(ctx context.Context, s *session) error {
	v, err := c.verifier()
	if err != nil {
		return err
	}
	if c.DB != "" {
		err = verifyFile(ctx, c.DB, v)
	} else {
		to := auditService{Addr: c.Addr, Expect: c.Service}
		err = to.dialled(ctx, s, c.workload, func(_ *dial.Workload, client auditv1.AuditServiceClient) error {
			return verifyServed(ctx, client, v)
		})
	}
	if err != nil {
		return err
	}
	return showReport(s.out, v.Report())
}

func verifyFile(ctx context.Context, path string, v *chain.Verifier) (err error) {
	db, err := database.OpenReadOnly(ctx, "sqlite:"+path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := trail.Check(ctx, db, v); err != nil {
		return fmt.Errorf("verify %s: %w", path, err)
	}
	return nil
}

var errAllRead = errors.New("all records were read")

// verifyServed hands v the trail as it is now: it grows meanwhile, by the decision about this call at least.
func verifyServed(ctx context.Context, client auditv1.AuditServiceClient, v *chain.Verifier) error {
	head, err := feed.Head(ctx, client)
	if err != nil || head == 0 {
		return dial.Explain(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(maxSilence, func() {
		cancel(fmt.Errorf("the audit service said that there is a record %d, and sent nothing more for %v", head, maxSilence))
	})
	defer silence.Stop()
	err = feed.Feed{Client: client}.Follow(ctx, 0, func(r *auditv1.StoredRecord) error {
		silence.Reset(maxSilence)
		v.Add(r)
		if r.GetPosition() < head {
			return nil
		}
		return errAllRead
	})
	switch {
	case errors.Is(err, errAllRead):
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return dial.Explain(err)
	}
}

// showReport says how the trail is; findings are an error, after they were listed.
func showReport(out *console.Console, r chain.Report) error {
	if r.Found > 0 {
		for _, f := range r.Findings[:min(len(r.Findings), maxFindings)] {
			out.Printf("%s %s\n", out.Say(console.Bad, fmt.Sprintf("%-10s", f.Kind)), console.Visible(f.String()))
		}
		if r.Found > maxFindings {
			out.Printf("… and %d more\n", r.Found-maxFindings)
		}
		return fmt.Errorf("the audit trail is not as it was stored: %s in %s", count(int64(r.Found), "finding"), count(r.Records, "record"))
	}
	out.Printf("%s\n", out.Say(console.Good, fmt.Sprintf("The audit trail is as it was stored: %s.", count(r.Records, "record"))))
	if r.Unchained > 0 {
		sealed := "nothing seals them yet: the next record does"
		if r.Unchained < r.Records {
			sealed = fmt.Sprintf("record %d seals them", r.Unchained+1)
		}
		out.Printf("The first %d are from before there was a chain; %s.\n", r.Unchained, sealed)
	}
	if r.Gaps == 0 {
		out.Printf("No decision was lost before it could be stored.\n")
	} else {
		out.Printf("%s in it: %s lost before they could be stored.\n", count(r.Gaps, "gap"), count(r.Lost, "decision"))
	}
	out.Printf("The head, to be kept elsewhere and checked with --expect: %s\n", out.Say(console.Strong, r.Head.String()))
	return nil
}

// count writes how many of something there are.
func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
