package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
	accountsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/accounts/v1"
	mobilev1 "github.com/countersign-mesh/countersign/proto/gen/bank/mobile/v1"
	paymentsv1 "github.com/countersign-mesh/countersign/proto/gen/bank/payments/v1"
)

// desk is the bank as Alice's and Bob's phones and the operator see it.
type desk struct {
	auditor
	mesh       *bank.Apart
	register   accountsv1.AccountServiceClient
	alice, bob account
}

const (
	// aliceCash is what Alice has. The bank's own rules hold payments above 5,000.00 EUR and refuse them above 10,000.00.
	aliceCash = 1_000_000
	suspect5k = 600_000
)

func newDesk(t *testing.T, mesh *bank.Apart) *desk {
	t.Helper()
	mesh.StartAll(t)
	operator := mesh.Identity(t, "operator")
	alice, bob := fundedAccounts(t, mesh)
	return &desk{
		auditor: newAuditor(t, mesh, operator), mesh: mesh,
		register: accountsv1.NewAccountServiceClient(mesh.Dial(t, operator, "accounts")),
		alice:    alice, bob: bob,
	}
}

// transfer pays from Alice to Bob and wants a status.
func (d *desk) transfer(t *testing.T, requestID string, minor int64, want mobilev1.TransferStatus) *mobilev1.Transfer {
	t.Helper()
	response, err := d.alice.phone.Bank().Transfer(t.Context(), pays(d.alice, d.bob, requestID, minor))
	if err != nil {
		t.Fatalf("%s: %v", requestID, err)
	}
	if got := response.GetTransfer().GetStatus(); got != want {
		t.Fatalf("%s: want %v, got %v", requestID, want, response.GetTransfer())
	}
	return response.GetTransfer()
}

// becomes waits until a payment is in a state for these reasons.
func (d *desk) becomes(t *testing.T, id string, state paymentsv1.PaymentState, codes ...string) {
	t.Helper()
	bank.Eventually(t, 20*time.Second, func() string {
		response, err := d.payments.GetPayment(t.Context(), &paymentsv1.GetPaymentRequest{PaymentId: id})
		if err != nil {
			return err.Error()
		}
		p := response.GetPayment()
		got := names(p.GetReasons(), func(r *paymentsv1.Reason) string { return r.GetCode() })
		if p.GetState() != state || !slices.Equal(got, codes) {
			return fmt.Sprintf("want %v %v, got %v", state, codes, p)
		}
		return ""
	})
}

// has wants these balances, nothing held, and one entry in Bob's books for each payment to him.
func (d *desk) has(t *testing.T, bob int64, entries int) {
	t.Helper()
	for id, want := range map[string]int64{d.alice.id: aliceCash - bob, d.bob.id: bob} {
		if got, held := d.balance(t, id); got != want || held != 0 {
			t.Errorf("%s: want a balance of %d and nothing held, got %d and %d held", id, want, got, held)
		}
		d.noHolds(t, id)
	}
	if got := d.entries(t, d.bob.id); len(got) != entries {
		t.Errorf("want %d entries, got %v", entries, got)
	}
}

// review decides on a payment as it stands.
func (d *desk) review(t *testing.T, id string, decision paymentsv1.ReviewDecision) error {
	t.Helper()
	return d.decide(t, id, decision, d.version(t, id))
}

// decide decides on a payment as it was at a version.
func (d *desk) decide(t *testing.T, id string, decision paymentsv1.ReviewDecision, version int64) error {
	t.Helper()
	_, err := d.payments.ReviewPayment(t.Context(), &paymentsv1.ReviewPaymentRequest{PaymentId: id, Decision: decision, Version: version})
	return err
}

func (d *desk) version(t *testing.T, id string) int64 {
	t.Helper()
	response, err := d.payments.GetPayment(t.Context(), &paymentsv1.GetPaymentRequest{PaymentId: id})
	if err != nil {
		t.Fatal(err)
	}
	return response.GetPayment().GetVersion()
}

const (
	isDone    = mobilev1.TransferStatus_TRANSFER_STATUS_DONE
	isRefused = mobilev1.TransferStatus_TRANSFER_STATUS_REFUSED
	isHeld    = mobilev1.TransferStatus_TRANSFER_STATUS_HELD
	inReview  = paymentsv1.PaymentState_PAYMENT_STATE_IN_REVIEW
	posted    = paymentsv1.PaymentState_PAYMENT_STATE_POSTED
	turnedOut = paymentsv1.PaymentState_PAYMENT_STATE_REFUSED
	approve   = paymentsv1.ReviewDecision_REVIEW_DECISION_APPROVE
	refuse    = paymentsv1.ReviewDecision_REVIEW_DECISION_REFUSE
)

// TestRiskAway makes payments while nobody can say what risk thinks of them. They are in review, nothing is posted and nothing set aside, and they go
// on by themselves when risk answers: risk that is away holds payments up, and does not let them through.
func TestRiskAway(t *testing.T) {
	d := newDesk(t, dist.NewHome(t).Apart(t))
	d.mesh.Kill(t, "risk")
	killed := d.transfer(t, "risk-is-killed", 12_34, isHeld)
	d.becomes(t, killed.GetPaymentId(), inReview, "RISK_UNAVAILABLE")
	d.has(t, 0, 0)
	d.mesh.Kill(t, "payments") // it is not forgotten
	d.mesh.Start(t, "payments")
	d.becomes(t, killed.GetPaymentId(), inReview, "RISK_UNAVAILABLE")
	d.mesh.Start(t, "risk")
	d.becomes(t, killed.GetPaymentId(), posted)

	d.mesh.Process("risk").Signal(t, syscall.SIGSTOP) // it takes connections and answers nothing
	stopped := d.transfer(t, "risk-is-stopped", 1_00, isHeld)
	d.becomes(t, stopped.GetPaymentId(), inReview, "RISK_UNAVAILABLE")
	decided := d.transfer(t, "a-person-decides", 2_00, isHeld)
	if err := d.review(t, decided.GetPaymentId(), refuse); err != nil {
		t.Errorf("a person may decide while risk is away: %v", err)
	}
	d.has(t, 12_34, 1)
	d.mesh.Process("risk").Signal(t, syscall.SIGCONT)
	d.becomes(t, stopped.GetPaymentId(), posted)
	d.becomes(t, decided.GetPaymentId(), turnedOut, "REVIEW_REFUSED")
	d.transfer(t, "risk-is-killed", 12_34, isDone)
	d.transfer(t, "risk-is-stopped", 1_00, isDone)
	d.has(t, 13_34, 2)
}

// TestReview has the operator decide on payments that risk does not want to decide on, with payments killed in between.
func TestReview(t *testing.T) {
	d := newDesk(t, dist.NewHome(t).Apart(t))
	good, bad := d.transfer(t, "a-car-for-bob", suspect5k, isHeld), d.transfer(t, "another-car", suspect5k+1, isHeld)
	for _, held := range []*mobilev1.Transfer{good, bad} {
		d.becomes(t, held.GetPaymentId(), inReview, "AMOUNT_CEILING")
	}
	seen := map[string]int64{good.GetPaymentId(): d.version(t, good.GetPaymentId()), bad.GetPaymentId(): d.version(t, bad.GetPaymentId())}
	if err := d.decide(t, good.GetPaymentId(), approve, seen[good.GetPaymentId()]-1); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a decision on a version that is past: %v", err)
	}
	d.has(t, 0, 0)
	d.mesh.Kill(t, "payments", "risk")
	d.mesh.Start(t, "risk", "payments")
	for range 2 { // the same decision again changes nothing
		for id, decision := range map[string]paymentsv1.ReviewDecision{good.GetPaymentId(): approve, bad.GetPaymentId(): refuse} {
			if err := d.decide(t, id, decision, seen[id]); err != nil {
				t.Fatalf("%v: %v", decision, err)
			}
		}
		d.becomes(t, good.GetPaymentId(), posted)
		d.becomes(t, bad.GetPaymentId(), turnedOut, "REVIEW_REFUSED")
	}
	for id, decision := range map[string]paymentsv1.ReviewDecision{good.GetPaymentId(): refuse, bad.GetPaymentId(): approve} {
		if err := d.decide(t, id, decision, seen[id]); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("the other decision after the first: %v", err)
		}
	}
	d.transfer(t, "a-car-for-bob", suspect5k, isDone)
	d.transfer(t, "another-car", suspect5k+1, isRefused)
	small := d.transfer(t, "not-in-review", 1, isDone)
	if err := d.review(t, small.GetPaymentId(), refuse); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a decision on a payment that nobody asked about: %v", err)
	}
	d.has(t, suspect5k+1, 2)
}

// TestFrozenAccount freezes accounts before payments and in the middle of one. A frozen account neither pays nor is paid, and is not closed.
func TestFrozenAccount(t *testing.T) {
	d := newDesk(t, dist.NewHome(t).Apart(t))
	held := d.transfer(t, "held-and-then-frozen", suspect5k, isHeld)
	freeze := func(a account) {
		t.Helper()
		if _, err := d.register.FreezeAccount(t.Context(), &accountsv1.FreezeAccountRequest{AccountId: a.id, Reason: "a court says so"}); err != nil {
			t.Fatal(err)
		}
	}
	unfreeze := func(a account) {
		t.Helper()
		if _, err := d.register.UnfreezeAccount(t.Context(), &accountsv1.UnfreezeAccountRequest{AccountId: a.id}); err != nil {
			t.Fatal(err)
		}
	}
	for i, frozen := range []account{d.alice, d.bob} {
		freeze(frozen)
		freeze(frozen) // changes nothing
		_, err := d.alice.phone.Bank().Transfer(t.Context(), pays(d.alice, d.bob, fmt.Sprintf("frozen-%d", i), 1_00))
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "frozen") {
			t.Errorf("a payment with the account of %s frozen: %v", frozen.customer, err)
		}
		if frozen == d.alice {
			unfreeze(frozen)
		}
	}
	_, err := d.payments.DepositCash(t.Context(), &paymentsv1.DepositCashRequest{RequestId: "cash-for-bob", AccountId: d.bob.id, Amount: euros(1)})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("cash for a frozen account: %v", err)
	}
	_, err = d.bob.phone.Bank().CloseAccount(t.Context(), &mobilev1.CloseAccountRequest{AccountId: d.bob.id})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an empty account that is frozen is closed: %v", err)
	}
	if err := d.review(t, held.GetPaymentId(), approve); err != nil {
		t.Fatal(err)
	}
	d.becomes(t, held.GetPaymentId(), turnedOut, "ACCOUNT_FROZEN")
	d.has(t, 0, 0)
	unfreeze(d.bob)
	d.transfer(t, "free-again", 1_00, isDone)
	d.has(t, 1_00, 1)
}

// TestRiskRulesEdited edits risk's rules while it runs. A good file is in force within a second or so; a broken one, an empty one and none at all change
// nothing, and risk says what is wrong with it.
func TestRiskRulesEdited(t *testing.T) {
	d := newDesk(t, dist.NewHome(t).Apart(t))
	rules := d.mesh.RiskRules()
	original, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	const ceiling = "  EUR: {hold_above: 500000, refuse_above: 1000000}\n"
	sent, paid, entries := 0, int64(0), 0
	try := func(minor int64, want mobilev1.TransferStatus) string {
		t.Helper()
		sent++
		response, err := d.alice.phone.Bank().Transfer(t.Context(), pays(d.alice, d.bob, fmt.Sprintf("under-rules-%03d", sent), minor))
		if err != nil {
			t.Fatal(err)
		}
		if response.GetTransfer().GetStatus() == isDone {
			paid, entries = paid+minor, entries+1
		}
		if response.GetTransfer().GetStatus() != want {
			return fmt.Sprintf("a payment of %d is %v", minor, response.GetTransfer())
		}
		return ""
	}
	expect := func(minor int64, want mobilev1.TransferStatus) {
		t.Helper()
		if why := try(minor, want); why != "" {
			t.Error(why)
		}
	}
	expect(50_00, isDone)
	d.mesh.Edit(t, rules, bank.Replace(t, ceiling, "  EUR: {hold_above: 1000, refuse_above: 2000}\n"))
	bank.Eventually(t, 5*time.Second, func() string { return try(20_01, isRefused) })
	expect(10_01, isHeld)
	for name, broken := range map[string]string{
		"misspelled": "amount_ceilings:\n  EUR: {hold_over: 1, refuse_above: 2}\n", "empty": "", "truncated": "amount_ceilings:\n  EUR: {hold_",
	} {
		before := len(d.mesh.Process("risk").Output())
		overwrite(t, rules, broken)
		bank.Eventually(t, 5*time.Second, func() string {
			if said := d.mesh.Process("risk").Output()[before:]; !strings.Contains(said, "bank.yaml") {
				return "nothing is said of a file that is " + name + ":\n" + said
			}
			return ""
		})
		expect(20_01, isRefused)
		expect(10_01, isHeld)
		expect(9_99, isDone)
	}
	overwrite(t, rules, bank.Replace(t, ceiling, "  EUR: {hold_above: 3000, refuse_above: 3000}\n")(string(original)))
	bank.Eventually(t, 5*time.Second, func() string { return try(29_99, isDone) })
	expect(30_01, isRefused)
	d.has(t, paid, entries)
}
