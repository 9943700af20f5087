package policy_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/countersign-mesh/countersign/pkg/policy"
	ledgerv1 "github.com/countersign-mesh/countersign/proto/gen/bank/ledger/v1"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	auditv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/audit/v1"
)

// The methods that conditions are tried over, by the messages that they take.
const (
	postTransfer    = "/bank.ledger.v1.LedgerService/PostTransfer"
	createPayment   = "/bank.payments.v1.PaymentService/CreatePayment"
	recordDecisions = "/mesh.audit.v1.AuditService/RecordDecisions"
	listDecisions   = "/mesh.audit.v1.AuditService/ListDecisions"
)

// conditionText is a policy in which when, as YAML has it, is the condition of the only rule of a list of a method. It stands in line 8, its text
// from column 19.
func conditionText(method, list, when string) string {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	text := "trust_domain: bank.test\nservices:\n  " + service + ":\n    methods:\n      " + name + ":\n        " + list + ":\n" +
		"          - peer: /a\n            when: " + when + "\n"
	if list == "deny" {
		text += "        allow:\n          - peer: /a\n"
	}
	return text
}

func TestAConditionThatIsWrongIsRefusedWhereItIsWrong(t *testing.T) {
	t.Parallel()
	const (
		noField = "undefined field 'transfer'"
		noUser  = "undeclared reference to 'user' (in container '')"
	)
	for name, test := range map[string]struct {
		when string // as YAML has it
		want []string
	}{
		"an unknown field":                       {"request.transfer == 'x'", []string{"8:26: when: " + noField}},
		"an unknown field of a message in it":    {"request.postings[0].amount.cents == 1", []string{"8:45: when: undefined field 'cents'"}},
		"an unknown field of the peer":           {"peer.name == 'x'", []string{"8:23: when: undefined field 'name'"}},
		"an unknown field in a comprehension":    {"request.postings.all(p, p.sum > 0)", []string{"8:44: when: undefined field 'sum'"}},
		"a user, whom nobody declares":           {"user.id == 'x'", []string{"8:19: when: " + noUser}},
		"a name of another language":             {"request.transfer_id === 'x'", []string{"8:41: when: Syntax error: token recognition error at: '= '"}},
		"a field by its JSON name":               {"request.transferId == 'x'", []string{"8:26: when: undefined field 'transferId'"}},
		"a text that is compared with a number":  {"request.transfer_id == 1", []string{"8:39: when: found no matching overload for '_==_' applied to '(string, int)'"}},
		"money that is compared with a number":   {"request.postings[0].amount > 5", []string{"8:46: when: found no matching overload for '_>_' applied to '(bank.money.v1.Money, int)'"}},
		"a number that is compared with a float": {"request.postings[0].amount.minor_units == 5.0", []string{"8:58: when: found no matching overload for '_==_' applied to '(int, double)'"}},
		"a function that there is not":           {"request.transfer_id.sha256() == 'x'", []string{"8:45: when: undeclared reference to 'sha256' (in container '')"}},
		"a text":                                 {"request.transfer_id", []string{"8:19: when: it is of type string; a condition is true or false"}},
		"a number":                               {"1 + 1", []string{"8:19: when: it is of type int; a condition is true or false"}},
		"a message":                              {"request", []string{"8:19: when: it is of type bank.ledger.v1.PostTransferRequest; a condition is true or false"}},
		"what is of any type":                    {"dyn(true)", []string{"8:19: when: it is of type dyn; a condition is true or false"}},
		"nothing but null":                       {"'null'", []string{"8:20: when: it is of type null_type; a condition is true or false"}},
		"an operator without its right side":     {"request.transfer_id ==", []string{"8:41: when: Syntax error: mismatched input '<EOF>'"}},
		"a parenthesis that stays open":          {"(true", []string{"8:24: when: Syntax error: missing ')' at '<EOF>'"}},
		"two things that are wrong":              {"user.id == request.transfer", []string{"8:19: when: " + noUser, "8:37: when: " + noField}},
		"a pattern that is none":                 {"request.description.matches('(')", []string{"8:19: when: error parsing regexp: missing closing ): `(`"}},
		"letters of more than one byte":          {"true == ('äöü€😀' == user)", []string{"8:39: when: undeclared reference to 'user'"}},

		"in double quotes":                    {`"request.transfer == 'x'"`, []string{"8:27: when: " + noField}},
		"in single quotes":                    {"'true && user.id == true'", []string{"8:28: when: " + noUser}},
		"not bool, in quotes":                 {`"request"`, []string{"8:20: when: it is of type bank.ledger.v1"}},
		"syntax, in quotes":                   {`"request."`, []string{"8:28: when: Syntax error"}},
		"in a block":                          {"|\n              request.transfer == 'x'", []string{"9:22: when: " + noField}},
		"in a later line of a block":          {"|\n              true\n              && user.id == true", []string{"10:18: when: " + noUser}},
		"in an indented line of a block":      {"|\n              true &&\n                user.id == true", []string{"10:17: when: " + noUser}},
		"in a block without the last newline": {"|-\n              user.id == 'x'", []string{"9:15: when: " + noUser}},
		"in a block after an empty line":      {"|\n\n              user.id == 'x'", []string{"10:15: when: " + noUser}},
		"in a block with a comment":           {"|\n              // says who\n              user.id == 'x'", []string{"10:15: when: " + noUser}},
		"two lines of a block":                {"|\n              user.id == 'x'\n              || user.id == 'y'", []string{"9:15: when: " + noUser, "10:18: when: " + noUser}},
		"syntax, in a block":                  {"|\n              true &&\n              == 1", []string{"10:15: when: Syntax error"}},
		"a pattern that is none, in a block":  {"|\n              request.description.matches('(')", []string{"9:15: when: error parsing regexp"}},
		"not bool, in a block":                {"|\n              request.transfer_id", []string{"9:15: when: it is of type string"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, list := range []string{"allow", "deny"} {
				_, err := policy.Parse("p.yaml", []byte(conditionText(postTransfer, list, test.when)))
				if err == nil {
					t.Fatal("it was accepted")
				}
				lines := strings.Split(err.Error(), "\n")
				for i, want := range test.want {
					if i >= len(lines) || !strings.HasPrefix(lines[i], "p.yaml:"+want) {
						t.Errorf("the error is\n%v\nwant\np.yaml:%s", err, want)
					}
				}
			}
		})
	}
}

// A wrong condition is reported with all else that is wrong in the file.
func TestEachWrongConditionIsReported(t *testing.T) {
	t.Parallel()
	text := methodText([]string{"peer: /a, when: user", "peer: /b/"}, []string{"peer: /*, when: request"})
	_, err := policy.Parse("p.yaml", []byte(text))
	for _, want := range []string{
		"p.yaml:7:30: when: undeclared reference to 'user'", `p.yaml:8:14: peer "/b/": no SPIFFE ID`,
		`p.yaml:10:14: peer "/*": a star`, "p.yaml:10:30: when: it is of type",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is\n%v\nand does not contain\n%s", err, want)
		}
	}
}

// What a condition over a request says: that it holds, that it does not, or why it cannot be told.
const (
	holds   = "holds"
	holdNot = "does not hold"
)

func transfer(amounts ...int64) *ledgerv1.PostTransferRequest {
	request := &ledgerv1.PostTransferRequest{TransferId: "t-1", Description: "rent"}
	for _, a := range amounts {
		request.Postings = append(request.Postings, &ledgerv1.Posting{AccountId: "acc-1", Amount: &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: a}})
	}
	return request
}

func records(events ...any) *auditv1.RecordDecisionsRequest {
	request := &auditv1.RecordDecisionsRequest{RunId: "r"}
	for _, e := range events {
		switch e := e.(type) {
		case *auditv1.Decision:
			request.Records = append(request.Records, &auditv1.Record{Event: &auditv1.Record_Decision{Decision: e}})
		case *auditv1.Gap:
			request.Records = append(request.Records, &auditv1.Record{Event: &auditv1.Record_Gap{Gap: e}})
		default:
			request.Records = append(request.Records, &auditv1.Record{})
		}
	}
	return request
}

func payment(amount *moneyv1.Money) proto.Message {
	return &paymentsv1.CreatePaymentRequest{PayerAccountId: "acc-1", PayeeAccountId: "acc-2", Amount: amount}
}

func filter(f *auditv1.DecisionFilter) proto.Message { return &auditv1.ListDecisionsRequest{Filter: f} }

func TestCondition(t *testing.T) {
	t.Parallel()
	const allEUR = `request.postings.all(p, p.amount.currency_code == "EUR")`
	euros := func(n int64) *moneyv1.Money { return &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: n} }
	for name, test := range map[string]struct {
		method, when string
		request      proto.Message
		want         string // holds, holdNot, or what the error says
	}{
		"a field is as it should be":               {postTransfer, `request.transfer_id == "t-1"`, transfer(), holds},
		"a field is not":                           {postTransfer, `request.transfer_id == "t-2"`, transfer(), holdNot},
		"a field that is not set is empty":         {postTransfer, `request.description == ""`, &ledgerv1.PostTransferRequest{}, holds},
		"the peer and the request":                 {postTransfer, `request.description == "rent" && peer.id == "spiffe://bank.test/a"`, transfer(), holds},
		"the peer's domain and path":               {postTransfer, `peer.trust_domain + peer.path == "bank.test/a"`, transfer(), holds},
		"another peer":                             {postTransfer, `peer.path == "/b"`, transfer(), holdNot},
		"money below a bound":                      {createPayment, `request.amount.minor_units <= 10000 && request.amount.currency_code == "EUR"`, payment(euros(10000)), holds},
		"money above a bound":                      {createPayment, `request.amount.minor_units <= 10000`, payment(euros(10001)), holdNot},
		"money of another currency":                {createPayment, `request.amount.minor_units <= 10000 && request.amount.currency_code == "EUR"`, payment(&moneyv1.Money{CurrencyCode: "USD"}), holdNot},
		"money that is not there is none":          {createPayment, `request.amount.minor_units == 0`, payment(nil), holds},
		"whether there is money":                   {createPayment, `has(request.amount)`, payment(nil), holdNot},
		"money of zero is money":                   {createPayment, `has(request.amount)`, payment(&moneyv1.Money{}), holds},
		"two fields that differ":                   {createPayment, `request.payer_account_id != request.payee_account_id`, payment(nil), holds},
		"the largest amount":                       {createPayment, `request.amount.minor_units > 0`, payment(euros(1<<63 - 1)), holds},
		"an amount that overflows":                 {createPayment, `request.amount.minor_units + 1 > 0`, payment(euros(1<<63 - 1)), "integer overflow"},
		"each of a list":                           {postTransfer, allEUR, transfer(5, -5), holds},
		"each of an empty list":                    {postTransfer, allEUR, transfer(), holds},
		"not each of a list":                       {postTransfer, `request.postings.all(p, p.amount.minor_units < 5)`, transfer(5, -5), holdNot},
		"one of a list":                            {postTransfer, `request.postings.exists(p, p.amount.minor_units == -5)`, transfer(5, -5), holds},
		"the length of a list":                     {postTransfer, `size(request.postings) == 2`, transfer(5, -5), holds},
		"an item of a list":                        {postTransfer, `request.postings[1].amount.minor_units == -5`, transfer(5, -5), holds},
		"a message in a list":                      {postTransfer, `bank.ledger.v1.Posting{account_id: "acc-1"} in request.postings`, transfer(5), holdNot},
		"an enum by its name":                      {listDecisions, `request.filter.verdict == mesh.audit.v1.Verdict.VERDICT_DENIED`, filter(&auditv1.DecisionFilter{Verdict: auditv1.Verdict_VERDICT_DENIED}), holds},
		"another value of the enum":                {listDecisions, `request.filter.verdict == mesh.audit.v1.Verdict.VERDICT_DENIED`, filter(&auditv1.DecisionFilter{Verdict: auditv1.Verdict_VERDICT_ALLOWED}), holdNot},
		"a value that the enum does not have":      {listDecisions, `request.filter.verdict in [mesh.audit.v1.Verdict.VERDICT_ALLOWED, mesh.audit.v1.Verdict.VERDICT_DENIED]`, filter(&auditv1.DecisionFilter{Verdict: 77}), holdNot},
		"an enum by its number":                    {listDecisions, `request.filter.verdict == 0`, filter(nil), holds},
		"a time":                                   {listDecisions, `request.filter.start_time >= timestamp("2026-01-01T00:00:00Z")`, filter(&auditv1.DecisionFilter{StartTime: &timestamppb.Timestamp{Seconds: 1 << 31}}), holds},
		"a time that is too early":                 {listDecisions, `request.filter.start_time >= timestamp("2026-01-01T00:00:00Z")`, filter(&auditv1.DecisionFilter{StartTime: &timestamppb.Timestamp{Seconds: 1 << 30}}), holdNot},
		"the field of a oneof that is set":         {recordDecisions, `request.records.all(r, has(r.decision))`, records(&auditv1.Decision{}), holds},
		"the field of a oneof that is not set":     {recordDecisions, `request.records.all(r, has(r.decision))`, records(&auditv1.Decision{}, &auditv1.Gap{}), holdNot},
		"a oneof of which none is set":             {recordDecisions, `request.records.exists(r, has(r.decision) || has(r.gap))`, records(nil), holdNot},
		"a field within a oneof":                   {recordDecisions, `request.records[0].decision.method == "/x/Y"`, records(&auditv1.Decision{Method: "/x/Y"}), holds},
		"a field within the one that is not set":   {recordDecisions, `request.records[0].gap.lost_count == 0`, records(&auditv1.Decision{}), holds},
		"a text by a pattern":                      {postTransfer, `request.transfer_id.matches("^t-[0-9]+$")`, transfer(), holds},
		"a text by its beginning":                  {postTransfer, `request.transfer_id.startsWith("u-")`, transfer(), holdNot},
		"whether, or else":                         {postTransfer, `request.description == "" ? false : request.transfer_id == "t-1"`, transfer(), holds},
		"what fails does not matter beside a true": {postTransfer, `request.postings[7].account_id == "" || true`, transfer(), holds},
		"what fails does not matter after a false": {postTransfer, `false && request.postings[7].account_id == ""`, transfer(), holdNot},
		"true":  {postTransfer, `true`, transfer(), holds},
		"false": {postTransfer, `false`, transfer(), holdNot},

		"a division by zero":                       {postTransfer, `100 / size(request.postings) > 1`, transfer(), "division by zero"},
		"a remainder by zero":                      {postTransfer, `100 % size(request.postings) > 1`, transfer(), "modulus by zero"},
		"a key that is not there":                  {postTransfer, `{"rent": 1}[request.transfer_id] == 1`, transfer(), "no such key: t-1"},
		"an index after the end":                   {postTransfer, `request.postings[2].account_id == ""`, transfer(5, -5), "index out of bounds: 2"},
		"an index before the beginning":            {postTransfer, `request.postings[size(request.postings) - 3].account_id == ""`, transfer(5, -5), "index out of bounds: -1"},
		"a text that is no number":                 {postTransfer, `int(request.description) > 0`, transfer(), "type conversion error from 'string' to 'int'"},
		"a pattern of the caller's that is none":   {postTransfer, `"x".matches(request.transfer_id)`, &ledgerv1.PostTransferRequest{TransferId: "("}, "error parsing regexp"},
		"one of a list that fails":                 {postTransfer, `request.postings.all(p, 10 / p.amount.minor_units > 0)`, transfer(5, 0), "division by zero"},
		"a request of another kind":                {postTransfer, `request.transfer_id == "t-1"`, balanceOf("t-1"), "internal error"},
		"a time that is none":                      {postTransfer, `timestamp(request.description) > timestamp("2026-01-01T00:00:00Z")`, transfer(), "invalid RFC 3339 timestamp"},
		"a list so long that it costs too much":    {postTransfer, allEUR, transfer(make([]int64, 100_000)...), "cost limit exceeded"},
		"each of a list with each of it":           {postTransfer, `request.postings.all(p, request.postings.all(q, p.amount.minor_units == q.amount.minor_units))`, transfer(make([]int64, 1000)...), "cost limit exceeded"},
		"a text so long that it costs too much":    {postTransfer, `request.description.contains("x")`, &ledgerv1.PostTransferRequest{Description: strings.Repeat("y", 1<<20)}, "cost limit exceeded"},
		"a list that is long and still affordable": {postTransfer, allEUR, transfer(make([]int64, 32)...), holds},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// A condition that cannot be told takes the side that lets nobody in, wherever it stands.
			for list, lets := range map[string]bool{"allow": test.want == holds, "deny": test.want == holdNot} {
				call := callOf(test.method, workload(t, "/a"))
				call.Request = test.request
				got := mustParse(t, conditionText(test.method, list, "|\n              "+test.when)).Decide(call)
				if got.Allowed != lets || got.Undecided {
					t.Errorf("under %s: %+v, want allowed %v", list, got, lets)
				}
				failed := strings.Contains(got.Reason, "the condition could not be evaluated: ")
				if failed != (test.want != holds && test.want != holdNot) || failed && !strings.Contains(got.Reason, test.want) {
					t.Errorf("under %s the reason is %q, want %q", list, got.Reason, test.want)
				}
			}
		})
	}
}
