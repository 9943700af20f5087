package main

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/customer"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

func TestAmountsAreReadAndWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"25.00": 2500, "25": 2500, "0.01": 1, "007.50": 750, "999999999999999.99": 99999999999999999} {
		if got, err := minorUnits(text); got != want || err != nil {
			t.Errorf("%q is %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "+1", "1,00", "1.0", "1.000", ".50", "1.", "0", "1e3", " 1", "1 ", "٣", "1000000000000000"} {
		if got, err := minorUnits(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
	for minor, want := range map[int64]string{0: "0.00 EUR", 5: "0.05 EUR", -2500: "-25.00 EUR"} {
		if got := customer.Amount(&moneyv1.Money{CurrencyCode: "EUR", MinorUnits: minor}); got != want {
			t.Errorf("%d is %q, want %q", minor, got, want)
		}
	}
}

// A payment that is sent twice under two names is two payments.
func TestARequestWhoseOutcomeIsNotKnownIsToBeSentAgainUnderItsName(t *testing.T) {
	t.Parallel()
	for code, want := range map[codes.Code]bool{codes.Unavailable: true, codes.DeadlineExceeded: true, codes.Canceled: true, codes.NotFound: false, codes.FailedPrecondition: false} {
		err := again(status.Error(code, "no"), "cli-1")
		if got := strings.Contains(err.Error(), "--request-id cli-1"); got != want || status.Code(err) != code {
			t.Errorf("%v: %v", code, err)
		}
	}
	first, second := idempotent{}.id(), idempotent{}.id()
	if first == second || (idempotent{RequestID: "mine-1234"}).id() != "mine-1234" {
		t.Errorf("the names are %s and %s", first, second)
	}
}

func TestWhoeverIsToBeAskedForAPasswordMustBeThere(t *testing.T) {
	t.Setenv(passwordVariable, "")
	s := &session{stdin: strings.NewReader("from a pipe\n")}
	if _, err := (secrets{}).password(s); err == nil || !strings.Contains(err.Error(), "nobody to ask") {
		t.Errorf("the error is %v", err)
	}
	if got, err := (secrets{PasswordFile: "-"}).password(s); got != "from a pipe" || err != nil {
		t.Errorf("it is %q, %v", got, err)
	}
	if _, err := (secrets{PasswordFile: "/no/such"}).password(s); err == nil || !strings.Contains(err.Error(), "--password-file") {
		t.Errorf("the error is %v", err)
	}
	t.Setenv(passwordVariable, "from the environment")
	if got, err := (secrets{}).password(s); got != "from the environment" || err != nil {
		t.Errorf("it is %q, %v", got, err)
	}
}

func TestAPasswordIsMadeUpWhereNoneIsGiven(t *testing.T) {
	t.Setenv(passwordVariable, "")
	c := &customerAddCommand{}
	first, made, err := c.password(&session{})
	second, _, again := c.password(&session{})
	if !made || first == second || len(first) != 27 || errors.Join(err, again) != nil {
		t.Errorf("%q and %q, %v", first, second, err)
	}
}
