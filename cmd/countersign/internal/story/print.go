package story

import (
	"fmt"
	"strings"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/console"
	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

// check says what was expected and whether it came so. what reads as a statement of how it must be; got is shown when it is not so.
func (p *player) check(ok bool, what, got string) {
	p.checks++
	if ok {
		p.out.Printf("   %s %s\n", p.out.Say(console.Good, "✓"), what)
		return
	}
	p.differences++
	p.out.Printf("   %s %s\n", p.out.Say(console.Bad, "✗"), p.out.Say(console.Bad, what))
	for line := range strings.Lines(got) {
		p.out.Printf("     %s", line)
	}
	p.out.Printf("\n")
}

// expect is check for two values that must be the same.
func expect[T comparable](p *player, what string, want, got T) {
	p.check(want == got, what, fmt.Sprintf("got %v, want %v", got, want))
}

// note says something that is not checked.
func (p *player) note(format string, args ...any) {
	p.out.Printf("     %s\n", p.out.Say(console.Faint, fmt.Sprintf(format, args...)))
}

// The verdicts, as they are shown.
const (
	allowed = "allowed"
	denied  = "denied"
)

// call shows a call that was let in: who called whom, and what for.
func (p *player) call(caller, callee, method string) {
	p.hop(hop{caller: caller, callee: callee, method: method}, allowed, "")
}

// edgeCall shows a call of a customer's, which comes over the edge: it is decided by certificate and token, and not by the policy.
func (p *player) edgeCall(who, method, verdict string) {
	p.hop(hop{caller: who, callee: "gateway", method: "bank.mobile.v1.MobileBankService/" + method}, verdict, "")
}

// hop shows a call as audit has it, with the rule that decided.
func (p *player) hop(h hop, verdict, rule string) {
	tone := console.Good
	if verdict != allowed {
		tone = console.Bad
	}
	p.out.Printf("   %-8s → %-8s  %-59s %s %s\n", h.caller, h.callee, strings.TrimPrefix(h.method, "/"),
		p.out.Say(tone, verdict), p.out.Say(console.Faint, rule))
}

// short is the last part of a SPIFFE ID.
func short(id string) string {
	if id == "" {
		return "nobody"
	}
	return id[strings.LastIndex(id, "/")+1:]
}

func euros(minor int64) *moneyv1.Money {
	return &moneyv1.Money{CurrencyCode: "EUR", MinorUnits: minor}
}
