package txntoken_test

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/pkg/mesh"
	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
	riskv1 "github.com/countersign-mesh/countersign/proto/gen/bank/risk/v1"
)

// ATTACKS 59, 60: a token is for one customer, one purpose and one content, at peers that may ask for that, and in one trust domain, for minutes.
func TestOnlyThePeerTheUserAndTheContentTogetherLetACallIn(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	read := payer(accountA)
	read.Scope = "accounts.read"
	bob := payer(accountA)
	bob.Subject = "bob"
	old := forge(t, w.key.Key, goodHeader(nil), goodClaims(object{
		"iat": begin.Add(-3 * time.Minute).Unix(), "exp": begin.Add(-time.Minute).Unix(), "tctx": object{"payer": accountA},
	}))
	claims := goodClaims(object{"tctx": object{"payer": accountA}})
	good := w.issue(t, payer(accountA))
	for name, test := range map[string]struct {
		from, account string
		tokens        []string
		reason        string // empty when the call is let in
		subject       string // whom the record names
	}{
		"all three":                  {"/gateway", accountA, []string{good}, "", "alice"},
		"once more":                  {"/gateway", accountA, []string{good}, "", "alice"},
		"for another account":        {"/gateway", accountB, []string{good}, "which this call is not", "alice"},
		"by another peer":            {"/stranger", accountA, []string{good}, "the caller is /stranger", ""},
		"another customer's":         {"/gateway", accountA, []string{w.issue(t, bob)}, "which this call is not", "bob"},
		"for another purpose":        {"/gateway", accountA, []string{w.issue(t, read)}, `the token is for "accounts.read"`, "alice"},
		"without a token":            {"/gateway", accountA, nil, "the call carries no user's token", ""},
		"two of them":                {"/gateway", accountA, []string{good, good}, "the call carries 2 of them", ""},
		"one and a bad one":          {"/gateway", accountA, []string{good, "x"}, "the call carries 2 of them", ""},
		"expired":                    {"/gateway", accountA, []string{old}, "it has expired", ""},
		"for another trust domain":   {"/gateway", accountA, []string{forge(t, w.key.Key, goodHeader(nil), with(claims, object{"aud": "partner.test"}))}, "another trust domain", ""},
		"an access token":            {"/gateway", accountA, []string{forge(t, w.key.Key, goodHeader(object{"typ": "at+jwt"}), claims)}, "typ", ""},
		"not signed":                 {"/gateway", accountA, []string{forge(t, nil, goodHeader(object{"alg": "none"}), claims)}, "not valid", ""},
		"signed by another":          {"/gateway", accountA, []string{forge(t, newKey(t, "k1").Key, goodHeader(nil), claims)}, "the signature", ""},
		"signed by one nobody knows": {"/gateway", accountA, []string{forge(t, newKey(t, "k2").Key, goodHeader(object{"kid": "k2"}), claims)}, "no key", ""},
	} {
		reached := w.risk.count()
		err := w.assess(t, test.from, test.account, test.tokens...)
		last, transaction := w.recorded.of("/bank.risk.v1.RiskService/AssessPayment"), ""
		if test.subject != "" {
			transaction = "txn-1"
		}
		if last.Subject != test.subject || last.TransactionID != transaction {
			t.Errorf("%s: the record names %q in %q, want %q in %q", name, last.Subject, last.TransactionID, test.subject, transaction)
		}
		if test.reason == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if status.Code(err) != codes.PermissionDenied || last.Allowed || !strings.Contains(last.Reason, test.reason) {
			t.Errorf("%s: %v, for %q, want %q", name, err, last.Reason, test.reason)
		}
		if st := status.Convert(err); st.Message() != "permission denied" {
			t.Errorf("%s: the caller is told %q", name, st.Message())
		}
		if w.risk.count() != reached {
			t.Errorf("%s: the handler was reached", name)
		}
	}
	if printed := w.log.String(); strings.Contains(printed, good[:20]) || strings.Contains(printed, strings.Split(good, ".")[1]) || !strings.Contains(printed, "call denied") {
		t.Errorf("a token is in the log, or nothing: %s", printed)
	}
	for _, d := range w.recorded.list {
		if strings.Contains(d.Reason+d.Subject+d.TransactionID, "eyJ") {
			t.Errorf("a token is in the record %+v", d)
		}
	}
}

// ATTACKS 59: the token goes with the calls that serve the customer's request, to the services that are named, and a service that was broken into can do no more
// with it than the customer asked for.
func TestATokenGoesOnFromServiceToService(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	raw := w.issue(t, payer(accountA))
	token, err := w.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	call := func(services ...string) error {
		ctx, cancel := context.WithTimeout(txntoken.NewContext(t.Context(), token), 10*time.Second)
		defer cancel()
		conn := w.mesh.Dial(t, "/gateway", "/risk", w.addr["/risk"], mesh.WithTransactionTokens(services...))
		_, err := riskv1.NewRiskServiceClient(conn).AssessPayment(ctx, assessment(accountA))
		return err
	}
	if err := call("bank.risk.v1.RiskService"); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*seen{"risk": &w.risk.seen, "ledger": &w.ledger.seen} {
		if s.count() != 1 || s.tokens[0].Raw() != raw || s.tokens[0].Subject != "alice" || len(s.sent[0]) != 1 {
			t.Errorf("%s saw %v", name, s.tokens)
		}
	}
	if err := call("bank.ledger.v1.LedgerService"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a service that is not named got it all the same: %v", err)
	}
	w.risk.account = accountB
	if err := call("bank.risk.v1.RiskService"); status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), codes.PermissionDenied.String()) || w.ledger.count() != 1 {
		t.Errorf("the balance of an account that the customer did not ask about: %v", err)
	}
	// What was tried with her token, whoever looks into it finds by her name and by the transaction.
	if d := w.recorded.of("/bank.ledger.v1.LedgerService/GetBalance"); d.Allowed || d.PeerID != "spiffe://bank.test/risk" || d.Subject != "alice" || d.TransactionID != "txn-1" {
		t.Errorf("the denial is recorded as %+v", d)
	}
	w.keys.setAway(true)
	if err := call("bank.risk.v1.RiskService"); status.Code(err) != codes.Unavailable {
		t.Errorf("while the keys cannot be had: %v", err)
	}
}

// ATTACKS 60: a token is no means of authentication.
func TestATokenAloneAuthenticatesNobody(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	conn, err := grpc.NewClient(w.addr["/risk"], grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		InsecureSkipVerify: true, // what the server makes of a caller without a certificate
		NextProtos:         []string{"h2"},
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = riskv1.NewRiskServiceClient(conn).AssessPayment(ctx, assessment(accountA), grpc.PerRPCCredentials(raws(w.issue(t, payer(accountA)))))
	if err == nil || w.risk.count() != 0 {
		t.Errorf("a caller without a certificate: %v", err)
	}
}

// A stream is let in by the token that it was opened with, and under the policies that come while that is good.
func TestAStreamOutlivesItsTokenUnderTheSamePolicyAlone(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	read := payer(accountA)
	read.Scope = "accounts.read"
	token, err := w.verifier.Verify(t.Context(), w.issue(t, read))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(txntoken.NewContext(t.Context(), token), 20*time.Second)
	defer cancel()
	conn := w.mesh.Dial(t, "/gateway", "/payments", w.addr["/payments"], mesh.WithTransactionTokens("bank.payments.v1.PaymentService"))
	stream, err := paymentsv1.NewPaymentServiceClient(conn).WatchPayments(ctx, &paymentsv1.WatchPaymentsRequest{AccountId: accountA})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil || w.payments.tokens[0].Raw() != token.Raw() {
		t.Fatalf("%v, and the handler saw %v", err, w.payments.tokens)
	}
	// By the clock of the server the token has long ended; the tests' clock is the verifier's.
	w.mesh.SetPolicy(t, meshPolicy+"# reviewed\n")
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("under another policy: %v", err)
	}
	if last := w.recorded.last(); !last.Allowed {
		t.Errorf("that is no denial, and recorded as %+v", last)
	}
}
