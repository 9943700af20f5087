package main

import (
	"errors"
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/contracts"
	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// auditFilter are the flags that choose records of the audit trail.
type auditFilter struct {
	Peer     string `placeholder:"ID" help:"Decisions about this caller, such as /risk or spiffe://bank.test/risk."`
	Server   string `placeholder:"ID" help:"What this server decided, such as /ledger or spiffe://bank.test/ledger."`
	Method   string `placeholder:"METHOD" help:"Calls of this method: Package.Service/Method; the method alone where only one service known here has it."`
	Verdict  string `enum:",allowed,denied" default:"" placeholder:"VERDICT" help:"allowed or denied."`
	Shadow   string `enum:",allowed,denied" default:"" placeholder:"VERDICT" help:"allowed or denied by the rules in shadow if they were enforced."`
	Since    string `placeholder:"TIME" help:"Not before this time: RFC 3339, such as 2026-11-05T09:30:00Z, or how long ago, such as 10m."`
	Until    string `placeholder:"TIME" help:"Before this time, written in the same way."`
	Decision string `placeholder:"ID" help:"The decision with this ID, from the error of a denied call."`
	Trace    string `placeholder:"ID" help:"Calls with this W3C trace ID."`

	Subject     string `placeholder:"USER" help:"Calls that were made for this user, by a transaction token that the server has verified."`
	Transaction string `placeholder:"ID" help:"Calls in this transaction, by the same token."`
}

// Validate implements kong's check of a command.
func (f auditFilter) Validate() error {
	// Whatever the trust domain and the time are: they are known later.
	_, err := f.filter(spiffeid.RequireTrustDomainFromString("bank.test"), time.Now())
	return err
}

// filter returns what the audit service is asked for. Short IDs are of own's trust domain. Every flag that is wrong is in the error.
func (f auditFilter) filter(own spiffeid.TrustDomain, now time.Time) (*auditv1.DecisionFilter, error) {
	var errs []error
	note := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", flag, err))
		}
	}
	id := func(flag, text string) string {
		if text == "" {
			return ""
		}
		parsed, err := policyfile.ParseID(own, text)
		if err != nil {
			note(flag, fmt.Errorf("%q is no workload's SPIFFE ID: %w; right would be /risk or spiffe://bank.test/risk", text, err))
		}
		return parsed.String()
	}
	moment := func(flag, text string) *timestamppb.Timestamp {
		at, err := parseTime(text, now)
		note(flag, err)
		return at
	}
	method := ""
	if f.Method != "" {
		name, err := contracts.Bank().Find(f.Method)
		note("--method", err)
		method = "/" + name
	}
	note("--decision", checkHex(f.Decision))
	note("--trace", checkHex(f.Trace))
	note("--subject", checkLength(f.Subject, maxSubject))
	note("--transaction", checkLength(f.Transaction, maxTransaction))
	filter := &auditv1.DecisionFilter{
		PeerId: id("--peer", f.Peer), ServerId: id("--server", f.Server), Method: method, DecisionId: f.Decision, TraceId: f.Trace,
		Subject: f.Subject, TransactionId: f.Transaction,
		Verdict: parseVerdict(f.Verdict), ShadowVerdict: parseVerdict(f.Shadow),
		StartTime: moment("--since", f.Since), EndTime: moment("--until", f.Until),
	}
	return filter, errors.Join(errs...)
}

func parseVerdict(text string) auditv1.Verdict {
	return map[string]auditv1.Verdict{"allowed": auditv1.Verdict_VERDICT_ALLOWED, "denied": auditv1.Verdict_VERDICT_DENIED}[text]
}

// parseTime reads a time, or how long ago it was; nil when text is empty.
func parseTime(text string, now time.Time) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // an optional field of a message
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return timestamppb.New(now.Add(-ago)), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, fmt.Errorf("%q is no time; right would be 2026-11-05T09:30:00Z, or 10m for ten minutes ago", text)
	}
	return timestamppb.New(at), nil
}

// The longest that the audit service looks for.
const (
	maxSubject     = 256
	maxTransaction = 64
)

func checkLength(text string, most int) error {
	if n := utf8.RuneCountInString(text); n > most {
		return fmt.Errorf("it has %d characters; no record has more than %d", n, most)
	}
	return nil
}

// checkHex checks the ID of a decision or a trace.
func checkHex(text string) error {
	if text == "" || regexp.MustCompile("^[0-9a-f]{32}$").MatchString(text) {
		return nil
	}
	return fmt.Errorf("%q is no ID; right would be 32 lower-case hexadecimal digits", text)
}
