package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/dial"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/feed"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// maxPage is the most that ListDecisions takes for a page.
const maxPage = 1000

type auditQueryCommand struct {
	workload
	auditService
	auditFilter
	Limit int  `default:"50" placeholder:"N" help:"At most this many (${default})."`
	JSON  bool `name:"json" help:"One JSON object a line: mesh.audit.v1.StoredRecord."`
}

// Validate implements kong's check of a command.
func (c *auditQueryCommand) Validate() error {
	err := c.auditFilter.Validate()
	if c.Limit < 1 {
		err = errors.Join(err, fmt.Errorf("--limit: %d is not above zero", c.Limit))
	}
	return err
}

func (c *auditQueryCommand) Run(ctx context.Context, s *session) error {
	return c.dialled(ctx, s, c.workload, func(self *dial.Workload, client auditv1.AuditServiceClient) error {
		own := self.ID().TrustDomain()
		filter, err := c.filter(own, time.Now())
		if err != nil {
			return err
		}
		records, more, err := newest(ctx, client, filter, c.Limit)
		if err != nil {
			return dial.Explain(err)
		}
		if c.JSON {
			for _, r := range records {
				if err := printRecord(s.out, r); err != nil {
					return err
				}
			}
			return nil
		}
		var rows [][]console.Cell
		for _, r := range records {
			rows = append(rows, recordRow(own, r))
		}
		switch {
		case len(rows) == 0:
			s.out.Printf("There is no such record.\n")
		default:
			s.out.Table(recordHeaders(), rows)
		}
		if more {
			s.out.Printf("\nThese are the newest %d. There are more: see them with --limit, or those before a time with --until.\n", len(rows))
		}
		return nil
	})
}

// newest returns the newest records, limit at most, and whether there are more.
func newest(ctx context.Context, client auditv1.AuditServiceClient, filter *auditv1.DecisionFilter, limit int) (records []*auditv1.StoredRecord, more bool, err error) {
	request := &auditv1.ListDecisionsRequest{Filter: filter}
	for {
		request.PageSize = int32(min(limit-len(records), maxPage)) //nolint:gosec // G115: 1000 at most
		response, err := client.ListDecisions(ctx, request)
		if err != nil {
			return nil, false, err
		}
		records = append(records, response.GetRecords()...)
		request.PageToken = response.GetNextPageToken()
		if request.GetPageToken() == "" || len(records) >= limit {
			return records, request.GetPageToken() != "", nil
		}
	}
}

type auditTailCommand struct {
	workload
	auditService
	auditFilter
	After *int64 `placeholder:"POSITION" help:"Begin after this position of the trail: 0 is all of it. By default what comes from now on."`
	JSON  bool   `name:"json" help:"One JSON object a line: mesh.audit.v1.StoredRecord."`
}

// Validate implements kong's check of a command.
func (c *auditTailCommand) Validate() error {
	err := c.auditFilter.Validate()
	if c.After != nil && *c.After < 0 {
		err = errors.Join(err, fmt.Errorf("--after: %d is no position; right would be 0 or more", *c.After))
	}
	return err
}

func (c *auditTailCommand) Run(ctx context.Context, s *session) error {
	err := c.dialled(ctx, s, c.workload, func(self *dial.Workload, client auditv1.AuditServiceClient) error {
		own := self.ID().TrustDomain()
		filter, err := c.filter(own, time.Now())
		if err != nil {
			return err
		}
		// A feed that begins now and breaks before its first record would not know where to go on, if this were left to the service.
		after, err := feed.Head(ctx, client)
		if err != nil {
			return dial.Explain(err)
		}
		if c.After != nil && *c.After > after {
			return fmt.Errorf("--after: the trail has no record %d yet; its last one is %d", *c.After, after)
		}
		if c.After != nil {
			after = *c.After
		}
		f := feed.Feed{Client: client, Filter: filter, Broken: func(err error, position int64) {
			s.err.Printf("%s\n", s.err.Say(console.Wary, fmt.Sprintf("The feed broke off after record %d and will be opened again: %v", position, dial.Explain(err))))
		}}
		return dial.Explain(f.Follow(ctx, after, c.printer(s, own)))
	})
	if ctx.Err() != nil {
		err = nil // there is no other way to end it
	}
	return err
}

// printer returns what writes each record.
func (c *auditTailCommand) printer(s *session, own spiffeid.TrustDomain) func(*auditv1.StoredRecord) error {
	if c.JSON {
		return func(r *auditv1.StoredRecord) error { return printRecord(s.out, r) }
	}
	const position, at, id, method, subject, verdict, decision = 8, 23, 10, 44, 10, 7, 32 // what is usual
	rows := s.out.Rows(recordHeaders(), position, at, id, id, method, subject, verdict, decision)
	return func(r *auditv1.StoredRecord) error {
		rows.Add(recordRow(own, r))
		return nil
	}
}

// printRecord writes a record as one line of JSON. protojson's own spaces are not the same from one program to the next.
func printRecord(out *console.Console, r *auditv1.StoredRecord) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record %d as JSON: %w", r.GetPosition(), err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		return fmt.Errorf("write record %d as JSON: %w", r.GetPosition(), err)
	}
	out.Printf("%s\n", &line)
	return nil
}

func recordHeaders() []string {
	return []string{"position", "time", "server", "peer", "method", "subject", "verdict", "decision", "why"}
}

// recordRow is a record in a table: SPIFFE IDs are as short as the flags take them, and the reason of a denial stands where the rule does
// that allowed a call.
func recordRow(own spiffeid.TrustDomain, r *auditv1.StoredRecord) []console.Cell {
	short := func(id string) string {
		return or(console.Visible(strings.TrimPrefix(id, own.IDString())))
	}
	row := []console.Cell{
		{Text: strconv.FormatInt(r.GetPosition(), 10), Tone: console.Faint}, {Text: clock(r.GetStoreTime().AsTime())}, {Text: short(r.GetServerId()), Tone: console.Strong},
	}
	d := r.GetDecision()
	if d == nil {
		gap := r.GetGap()
		row[1].Text = clock(gap.GetStartTime().AsTime())
		why := fmt.Sprintf("%d decisions were lost until %s", gap.GetLostCount(), clock(gap.GetEndTime().AsTime()))
		return append(row, console.Cell{Text: none}, console.Cell{Text: none}, console.Cell{Text: none}, console.Cell{Text: "lost", Tone: console.Wary}, console.Cell{Text: none}, console.Cell{Text: why})
	}
	row[1].Text = clock(d.GetDecideTime().AsTime())
	why := d.GetRule()
	if d.GetVerdict() == auditv1.Verdict_VERDICT_DENIED {
		why = d.GetReason()
	}
	verdict := verdictCell(d.GetVerdict())
	if shadow := d.GetShadowVerdict(); shadow != auditv1.Verdict_VERDICT_UNSPECIFIED {
		verdict.Text += ", in shadow " + verdictCell(shadow).Text
	}
	return append(row, console.Cell{Text: short(d.GetPeerId())}, console.Cell{Text: or(console.Visible(strings.TrimPrefix(d.GetMethod(), "/")))},
		console.Cell{Text: or(console.Visible(d.GetSubject()))}, verdict, console.Cell{Text: console.Visible(d.GetDecisionId()), Tone: console.Faint}, console.Cell{Text: or(console.Visible(why))})
}

func clock(at time.Time) string { return at.Local().Format("2006-01-02 15:04:05.000") }

func verdictCell(v auditv1.Verdict) console.Cell {
	if v == auditv1.Verdict_VERDICT_ALLOWED {
		return console.Cell{Text: "allowed", Tone: console.Good}
	}
	return console.Cell{Text: "denied", Tone: console.Bad}
}

// auditService is where the audit service is.
type auditService struct {
	Addr   string `default:"audit" placeholder:"ADDR" help:"The audit service: HOST:PORT, or the name of a service of the mesh that runs in --run-dir (${default})."`
	Expect string `default:"/audit" placeholder:"ID" help:"The SPIFFE ID that it must have (${default})."`
}

// dialled runs f with a client of the audit service.
func (a auditService) dialled(ctx context.Context, s *session, w workload, f func(*dial.Workload, auditv1.AuditServiceClient) error) error {
	return server(a).dialled(ctx, s, w, func(self *dial.Workload, conn *grpc.ClientConn) error {
		return f(self, auditv1.NewAuditServiceClient(conn))
	})
}
