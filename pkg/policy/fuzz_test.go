package policy_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"buf.build/go/protoyaml"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/countersign-mesh/countersign/pkg/identity"
	"github.com/countersign-mesh/countersign/pkg/policy"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
	policyv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/policy/v1"
)

// Whatever the text is, it is refused or it makes a policy that says of its rules what the interpreter of the tests says.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		policyText, browsedText, dialText, "trust_domain: a\nservices: {A: {methods: {B: {allow: [{peer: /x}]}}}}\n",
		methodText([]string{"peer: /a/**, " + ifX}, []string{"peer: /a, " + ifPeer, "peer: /**, shadow: true"}),
		"shadow: true\n" + policyText, "revoked: [{id: /payments}, {serial: 'c0:ff'}, {authority: ab}]\n" + policyText, mainText,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		parsed, err := policy.Parse("p.yaml", text)
		if err != nil {
			if parsed != nil || err.Error() == "" {
				t.Errorf("with the error %q came %v", err, parsed)
			}
			return
		}
		var file policyv1.Policy
		if err := (protoyaml.UnmarshalOptions{}).Unmarshal(text, &file); err != nil {
			t.Fatalf("it was accepted, and does not hold a policy: %v", err)
		}
		checkAgainst(t, parsed, &file)
	})
}

// checkAgainst asks for each peer of a rule, and one below it, what the policy and the file say, of rules without conditions.
func checkAgainst(t *testing.T, parsed *policy.Policy, file *policyv1.Policy) {
	t.Helper()
	for name, service := range file.GetServices() {
		for method, rules := range service.GetMethods() {
			if slices.ContainsFunc(slices.Concat(rules.GetDeny(), rules.GetAllow()), func(r *policyv1.Rule) bool { return r.GetWhen() != "" }) {
				continue // the interpreter does not know their conditions
			}
			for _, r := range slices.Concat(rules.GetDeny(), rules.GetAllow()) {
				whole := strings.TrimSuffix(wholeOf(file.GetTrustDomain(), r.GetPeer()), "/**")
				for _, id := range []string{whole + "/x", whole, whole + "x"} {
					checkCall(t, parsed, file, modelCall{service: name, method: method, id: id})
				}
			}
		}
	}
}

func checkCall(t *testing.T, parsed *policy.Policy, file *policyv1.Policy, call modelCall) {
	t.Helper()
	id, err := spiffeid.FromString(call.id)
	if err != nil {
		t.Fatalf("a rule names %q: %v", call.id, err)
	}
	got := parsed.Decide(callOf("/"+call.service+"/"+call.method, id))
	want := interpret(file, call)
	if outcome(got) != want.outcome || shadowOutcome(got.Shadow) != want.shadow {
		t.Errorf("%+v: %s, in shadow %s, want %s, in shadow %s (%s)", call, outcome(got), shadowOutcome(got.Shadow), want.outcome, want.shadow, got.Reason)
	}
}

// A pattern means what it says, segment by segment, and a policy that has it for its only rule decides so.
func FuzzPattern(f *testing.F) {
	for _, seed := range [][2]string{
		{"/payments", "spiffe://bank.test/payments"},
		{"/payments/**", "spiffe://bank.test/payments/x"},
		{"/**", "spiffe://bank.test.evil/x"},
		{"spiffe://partner.test/**", "spiffe://partner.test/x"},
		{"spiffe://partner.test/a/b", "spiffe://partner.test/a/b/c"},
		{"/payments/**", "spiffe://bank.test/payments-evil/x"},
		{"/payments/*", "spiffe://bank.test/payments/x"},
		{"/a/**/b", "spiffe://bank.test/a/x/b"},
		{"/", "spiffe://bank.test/"},
		{"//**", "spiffe://bank.test//"},
		{"spiffe:///**", "spiffe:///x"},
		{longest, longest},
		{"/team/**", longest},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, id string) {
		pattern, err := policy.ParsePattern(own, text)
		if err != nil {
			if pattern != (policy.Pattern{}) {
				t.Errorf("with an error %q came the pattern %q", err, pattern)
			}
			return
		}
		if !wellFormed(strings.TrimSuffix(wholeOf("bank.test", text), "/**")) || wholeOf("bank.test", text) != pattern.String() {
			t.Errorf("%q is a pattern, %q", text, pattern)
		}
		peer, err := spiffeid.FromString(id)
		if err != nil {
			return
		}
		want := means("bank.test", text, id)
		if got := pattern.Matches(peer); got != want {
			t.Errorf("%q means %q: %v, want %v", text, id, got, want)
		}
		if one, ok := pattern.ID(); ok != !strings.HasSuffix(text, "/**") || ok && !pattern.Matches(one) {
			t.Errorf("the ID of %q is %q, %v", text, one, ok)
		}
		if exact, err := policy.ParsePattern(own, id); err == nil && pattern.Covers(exact) != want {
			t.Errorf("%q covers %q: %v, want %v", text, id, !want, want)
		}
		if len(text) > 2048 {
			return // the schema has no rule that long
		}
		if got := mustParse(t, methodText(nil, []string{"peer: '" + text + "'"})).Decide(callOf(getBalance, peer)); got.Allowed != want {
			t.Errorf("a policy that allows %q says of %q: %+v", text, id, got)
		}
	})
}

// wellFormed reports whether text is a SPIFFE ID (SPIFFE-ID §2), or a trust domain's.
func wellFormed(text string) bool {
	segments := strings.Split(text, "/")
	if len(segments) < 3 || segments[0] != "spiffe:" || segments[1] != "" {
		return false
	}
	const lower, other = "abcdefghijklmnopqrstuvwxyz0123456789", "-._"
	if segments[2] == "" || strings.Trim(segments[2], lower+other) != "" {
		return false
	}
	for _, segment := range segments[3:] {
		if segment == "" || segment == "." || segment == ".." || strings.Trim(segment, lower+strings.ToUpper(lower)+other) != "" {
			return false
		}
	}
	return true
}

// fuzzedConditions are conditions over each kind of request, with all that can be in one: lists, nested messages, enums, oneofs, times, and much that
// can fail.
var fuzzedConditions = []struct {
	method string
	new    func() proto.Message
	whens  []string
}{
	{postTransfer, func() proto.Message { return new(ledgerv1.PostTransferRequest) }, []string{
		`request.postings.all(p, p.amount.minor_units < 1000 && p.amount.currency_code == "EUR")`,
		`request.postings.map(p, p.amount.minor_units).exists(n, 1000 / n > 3)`,
		`request.postings[1].account_id.startsWith("acc-") || request.transfer_id.matches(request.description)`,
		`request.postings[0].amount.minor_units + request.postings[1].amount.minor_units == 0`,
		`int(request.transfer_id) % size(request.description) == 0`,
		`{"rent": 1, "": 2}[request.description] == size(request.postings)`,
		`request.postings.exists(p, request.postings.exists(q, p != q && p.account_id == q.account_id))`,
		`has(request.postings) && !has(request.postings[0].amount)`,
	}},
	{createPayment, func() proto.Message { return new(paymentsv1.CreatePaymentRequest) }, []string{
		`has(request.amount) && request.amount.minor_units * 1000 > 0`,
		`-request.amount.minor_units < 0 ? request.payer_account_id == peer.path : request.reference != ""`,
		`timestamp(request.reference) > timestamp("2026-01-01T00:00:00Z") || duration(request.request_id) > duration("1s")`,
		`request.reference.size() / (request.request_id.size() - 1) > 1`,
	}},
	{listDecisions, func() proto.Message { return new(auditv1.ListDecisionsRequest) }, []string{
		`request.filter.verdict in [mesh.audit.v1.Verdict.VERDICT_DENIED, mesh.audit.v1.Verdict.VERDICT_ALLOWED]`,
		`request.filter.end_time - request.filter.start_time < duration("24h")`,
		`request.filter.start_time.getHours() > 8 && request.page_size * request.page_size < 100`,
		`request.filter == mesh.audit.v1.DecisionFilter{}`,
	}},
	{recordDecisions, func() proto.Message { return new(auditv1.RecordDecisionsRequest) }, []string{
		`request.records.all(r, has(r.decision) ? r.decision.peer_id == peer.id : r.gap.lost_count > 0)`,
		`request.records[0].sequence + 1 == request.records[1].sequence`,
		`request.records.filter(r, has(r.gap)).map(g, g.gap.end_time - g.gap.start_time).all(d, d > duration("0s"))`,
		`string(request.records[0].decision.decide_time) != ""`,
	}},
	{"/bank.accounts.v1.AccountService/ListAccounts", func() proto.Message { return new(accountsv1.ListAccountsRequest) }, []string{
		`request.page_size in [1, 2, 3] && uint(bytes(request.customer_id).size()) > uint(request.page_size)`,
		`request.customer_id + peer.path > request.page_token`,
	}},
}

// Whatever the request is, conditions over it end, and what cannot be told lets nobody in.
func FuzzConditions(f *testing.F) {
	type compiled struct {
		when        string
		allow, deny *policy.Policy
	}
	policies := make([][]compiled, len(fuzzedConditions))
	for i, kind := range fuzzedConditions {
		for _, when := range kind.whens {
			policies[i] = append(policies[i], compiled{
				when,
				mustParse(f, conditionText(kind.method, "allow", "|\n              "+when)),
				mustParse(f, conditionText(kind.method, "deny", "|\n              "+when)),
			})
		}
	}
	for i, request := range []proto.Message{
		transfer(5, -5), payment(nil), filter(&auditv1.DecisionFilter{Verdict: 1}), records(&auditv1.Decision{Method: "/x/Y"}, &auditv1.Gap{LostCount: 1}),
		&accountsv1.ListAccountsRequest{CustomerId: "x", PageSize: 2},
	} {
		wire, err := proto.Marshal(request)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), wire)
	}
	peer := workload(f, "/a")
	f.Fuzz(func(t *testing.T, which uint8, wire []byte) {
		kind := int(which) % len(fuzzedConditions)
		request := fuzzedConditions[kind].new()
		if err := proto.Unmarshal(wire, request); err != nil {
			return
		}
		call := policy.Call{Method: fuzzedConditions[kind].method, Peer: &identity.Peer{ID: peer}, Request: request}
		for _, c := range policies[kind] {
			allow, deny := c.allow.Decide(call), c.deny.Decide(call)
			failed := strings.Contains(allow.Reason, "could not be evaluated")
			if allow.Undecided || deny.Undecided || failed != strings.Contains(deny.Reason, "could not be evaluated") {
				t.Errorf("%s: %+v under allow, %+v under deny", c.when, allow, deny)
			}
			if failed && (allow.Allowed || deny.Allowed) || !failed && allow.Allowed == deny.Allowed {
				t.Errorf("%s lets in under allow: %v, under deny: %v, and could not be evaluated: %v", c.when, allow.Allowed, deny.Allowed, failed)
			}
			if got := c.allow.Decide(policy.Call{Method: call.Method, Peer: call.Peer}); got.Allowed || !got.Undecided {
				t.Errorf("%s: without the request %+v", c.when, got)
			}
		}
	})
}

// Whatever two files are, the one that is included has rules for no service that the other does not let it have.
func FuzzInclude(f *testing.F) {
	const main = "trust_domain: bank.test\ninclude:\n  - file: other.yaml\n    services: [a.A, b.B]\n"
	f.Add([]byte(main), []byte("trust_domain: bank.test\nservices: {a.A: {methods: {Get: {allow: [{peer: /x}]}}}}\n"))
	f.Add([]byte(main+"services: {c.C: {methods: {Get: {deny: [{peer: /x}]}}}}\n"), []byte("trust_domain: bank.test\nservices: {c.C: {methods: {Get: {}}}}\n"))
	f.Add([]byte("shadow: true\n"+main), []byte("trust_domain: bank.test\nshadow: true\nservices: {b.B: {methods: {Get: {allow: [{peer: /**}]}}}}\n"))
	f.Add([]byte(strings.Replace(main, "other.yaml", "../other.yaml", 1)), []byte("trust_domain: x\n"))
	f.Add([]byte(main), []byte(main))
	f.Fuzz(func(t *testing.T, mainText, otherText []byte) {
		dir := t.TempDir()
		main, other := filepath.Join(dir, "main.yaml"), filepath.Join(dir, "other.yaml")
		for path, text := range map[string][]byte{main: mainText, other: otherText} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		source, err := policy.Read(main)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range source.Names() {
			if !strings.HasPrefix(name, dir+string(filepath.Separator)) {
				t.Errorf("it reads %s", name)
			}
		}
		loaded, err := policy.Compile(source)
		if err != nil {
			return
		}
		var mainFile, otherFile policyv1.Policy
		if err := (protoyaml.UnmarshalOptions{}).Unmarshal(mainText, &mainFile); err != nil {
			t.Fatalf("it was accepted, and does not hold a policy: %v", err)
		}
		checkAgainst(t, loaded, &mainFile)
		if len(source.Names()) == 1 {
			return
		}
		if err := (protoyaml.UnmarshalOptions{}).Unmarshal(otherText, &otherFile); err != nil {
			t.Fatalf("it was accepted, and does not hold a policy: %v", err)
		}
		mayHave := make(map[string]bool)
		for _, include := range mainFile.GetInclude() {
			for _, name := range include.GetServices() {
				mayHave[name] = true
			}
		}
		for service := range loaded.Services() {
			inMain := mainFile.GetServices()[service.Name] != nil
			if inMain == (otherFile.GetServices()[service.Name] != nil) || !inMain && !mayHave[service.Name] {
				t.Errorf("%s has its rules at %s", service.Name, service.Position)
			}
		}
		if otherFile.GetTrustDomain() != mainFile.GetTrustDomain() || len(otherFile.GetRevoked())+len(otherFile.GetInclude()) > 0 {
			t.Errorf("the included file has what it must not have: %v", &otherFile)
		}
		otherFile.Revoked = mainFile.GetRevoked()
		checkAgainst(t, loaded, &otherFile)
	})
}
