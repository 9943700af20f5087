// Package rules reads the file that says what the bank holds against payments.
//
// The file is read strictly: an unknown field, a field that is missing or there twice, a value out of range are errors. A rule
// that was misspelled would otherwise be a rule that is off. Every error is reported, each with file, line and column.
package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countersign-mesh/countersign/services/risk/internal/risk"
)

const (
	// maxMinor bounds amounts as the contract of Money does.
	maxMinor = 1_000_000_000_000_000
	// maxPayments bounds counts: more than that within a window is no limit.
	maxPayments = 1_000_000_000
	// The bounds of a window. The longer one is, the more payments each assessment sums.
	minWindow = time.Second
	maxWindow = 31 * 24 * time.Hour
	// versionSize is how many bytes of the SHA-256 of its text name a version, as of the policy.
	versionSize = 8
)

// Parse reads the rules in text; path is what its errors call the file. It is safe for concurrent use.
func Parse(path string, text []byte) (risk.Rules, error) {
	r := reader{path: path}
	root, err := r.document(text)
	if err != nil {
		return risk.Rules{}, err
	}
	sum := sha256.Sum256(text)
	all := risk.Rules{Version: hex.EncodeToString(sum[:versionSize])}
	r.fields(root, "the file", map[string]field{
		"amount_ceilings": {required: true, read: func(n *yaml.Node) { all.Ceilings = readCeilings(&r, n) }},
		"velocity":        {required: true, read: func(n *yaml.Node) { all.Limits = readLimits(&r, n) }},
		"blocked_payees":  {required: true, read: func(n *yaml.Node) { all.Blocked = readBlocked(&r, n) }},
	})
	if len(r.errs) > 0 {
		return risk.Rules{}, errors.Join(r.sorted()...)
	}
	return all, nil
}

func readCeilings(r *reader, n *yaml.Node) map[string]risk.Ceiling {
	ceilings := make(map[string]risk.Ceiling)
	for key, value := range r.mapping(n, "amount_ceilings") {
		var c risk.Ceiling
		before := len(r.errs)
		r.fields(value, "a ceiling", map[string]field{
			"code":         {read: func(n *yaml.Node) { c.Code = r.code(n, "amount_ceilings") }},
			"hold_above":   {required: true, read: func(n *yaml.Node) { c.HoldAbove = r.integer(n, 0, maxMinor) }},
			"refuse_above": {required: true, read: func(n *yaml.Node) { c.RefuseAbove = r.integer(n, 0, maxMinor) }},
		})
		if len(r.errs) == before && c.HoldAbove > c.RefuseAbove {
			r.fail(value, "hold_above is more than refuse_above, so that nothing would be held")
		}
		ceilings[r.currency(key)] = c
	}
	if len(ceilings) == 0 && n.Kind == yaml.MappingNode {
		r.fail(n, "amount_ceilings is empty; it needs one currency at least, such as EUR: {hold_above: 500000, refuse_above: 1000000}")
	}
	return ceilings
}

func readLimits(r *reader, n *yaml.Node) (limits []risk.Limit) {
	for _, item := range r.sequence(n, "velocity") {
		limits = append(limits, readLimit(r, item))
	}
	if len(limits) == 0 && n.Kind == yaml.SequenceNode {
		r.fail(n, "velocity is empty; it needs one limit at least")
	}
	return limits
}

func readLimit(r *reader, n *yaml.Node) (l risk.Limit) {
	before := len(r.errs)
	r.fields(n, "a limit of velocity", map[string]field{
		"code": {read: func(n *yaml.Node) { l.Code = r.codeOfOne(n, "velocity") }},
		"per": {required: true, read: func(n *yaml.Node) {
			l.Per = choose(r, n, option[risk.Per]{"account", risk.PerAccount}, option[risk.Per]{"customer", risk.PerCustomer})
		}},
		"window":       {required: true, read: func(n *yaml.Node) { l.Window = r.duration(n, minWindow, maxWindow) }},
		"max_payments": {read: func(n *yaml.Node) { l.MaxPayments = r.integer(n, 1, maxPayments) }},
		"max_amount":   {read: func(n *yaml.Node) { l.MaxAmount = readAmounts(r, n) }},
		"verdict": {required: true, read: func(n *yaml.Node) {
			l.Verdict = choose(r, n, option[risk.Verdict]{"hold", risk.Hold}, option[risk.Verdict]{"refuse", risk.Refuse})
		}},
	})
	if len(r.errs) == before && l.MaxPayments == 0 && l.MaxAmount == nil {
		r.fail(n, "a limit of velocity needs max_payments or max_amount")
	}
	return l
}

func readAmounts(r *reader, n *yaml.Node) map[string]int64 {
	amounts := make(map[string]int64)
	for key, value := range r.mapping(n, "max_amount") {
		amounts[r.currency(key)] = r.integer(value, 1, maxMinor)
	}
	if len(amounts) == 0 && n.Kind == yaml.MappingNode {
		r.fail(n, "max_amount is empty; it needs one currency at least, such as {EUR: 2000000}")
	}
	return amounts
}

func readBlocked(r *reader, n *yaml.Node) map[string]risk.Block {
	blocked := make(map[string]risk.Block)
	for _, item := range r.sequence(n, "blocked_payees") {
		var account string
		var block risk.Block
		r.fields(item, "a blocked payee", map[string]field{
			"account": {required: true, read: func(n *yaml.Node) {
				account = r.match(n, regexp.MustCompile(`^acc-[a-z2-7]{26}$`), "an account, acc- and 26 characters of a-z and 2-7")
			}},
			"code": {read: func(n *yaml.Node) { block.Code = r.code(n, "blocked_payees") }},
			"why":  {required: true, read: func(n *yaml.Node) { block.Why = r.match(n, regexp.MustCompile(`\S`), "a reason for the next person") }},
		})
		if _, twice := blocked[account]; twice && account != "" {
			r.fail(item, "account %s is blocked already further up", account)
		}
		blocked[account] = block
	}
	return blocked
}
