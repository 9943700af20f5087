package rules

import (
	"regexp"

	"go.yaml.in/yaml/v3"

	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
)

// A rule may have a code of its own, so that those who look after the rules can tell which of them spoke: two limits of velocity are two
// rules, with different false alarms and different people who answer for them, and both are VELOCITY_AMOUNT by their kind. A code names one
// rule, or what one count of is meant: a limit of velocity has its code alone; the ceilings of several currencies may share one, being one
// rule in several currencies, and so may blocked payees, who are a list. Nothing else may, and nobody may have a kind's code:
// a count by code would add up what has nothing to do with each other.

// use is where a code was used first.
type use struct {
	section string
	line    int
}

// code reads a rule's own code, which other rules of the same section of the file may have too.
func (r *reader) code(n *yaml.Node, section string) risk.Code {
	code := risk.Code(r.match(n, regexp.MustCompile(`^[A-Z][A-Z0-9]{0,19}(_[A-Z0-9]{1,20}){0,3}$`), "a code, one to four words of A-Z and 0-9 such as ACCOUNT_EMPTIED"))
	switch code {
	case risk.AmountCeiling, risk.VelocityCount, risk.VelocityAmount, risk.BlockedPayee:
		r.fail(n, "%s is the code of rules that have none of their own; leave it out", code)
	}
	first, used := r.codes[code]
	if !used {
		if r.codes == nil {
			r.codes = make(map[risk.Code]use)
		}
		r.codes[code] = use{section, n.Line}
		return code
	}
	if first.section != section {
		r.fail(n, "the code %s is in use for %s, in line %d", code, first.section, first.line)
	}
	return code
}

// codeOfOne reads the code of a rule that shares it with no other.
func (r *reader) codeOfOne(n *yaml.Node, section string) risk.Code {
	before := len(r.codes)
	errs := len(r.errs)
	code := r.code(n, section)
	if len(r.codes) == before && len(r.errs) == errs {
		r.fail(n, "the code %s is that of the rule in line %d already; a limit has one of its own, or none", code, r.codes[code].line)
	}
	return code
}
