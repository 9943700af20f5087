package verify

import (
	"bytes"
	"context"
	"math/big"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// byTransfer lists, one transfer after the other, its row, its entries and the holds that it captured. What has no row of its own is there too.
const byTransfer = `
	SELECT transfer_id, 0 AS part, post_time AS number, description AS text, '' AS currency_code, 0 AS minor_units, '' AS hold_id, digest FROM transfers
	UNION ALL
	SELECT transfer_id, 1, sequence, account_id, currency_code, minor_units, '', NULL FROM entries
	UNION ALL
	SELECT transfer_id, 2, number, account_id, currency_code, minor_units, hold_id, NULL FROM holds WHERE transfer_id IS NOT NULL
	ORDER BY 1, 2, 3`

// maxPostings bounds what is kept of one transfer, far above what the ledger takes.
const maxPostings = 1000

// group is what the books have of one transfer.
type group struct {
	ledger.Transfer
	row     bool
	digest  []byte
	entries int64 // of which Postings has up to maxPostings
	first   int64 // the sequence of the first entry
	sums    map[string]*big.Int
	holds   []ledger.Hold
}

// transfers checks each transfer by itself.
func (v *verifier) transfers(ctx context.Context) error {
	var g *group
	err := v.each(ctx, byTransfer, func(scan func(...any) error) error {
		var (
			id, text, currency, hold string
			part                     int
			number, minor            int64
			digest                   []byte
		)
		if err := scan(&id, &part, &number, &text, &currency, &minor, &hold, &digest); err != nil {
			return err
		}
		if g == nil || g.ID != id {
			v.group(g)
			g = &group{Transfer: ledger.Transfer{ID: id}, sums: make(map[string]*big.Int)}
		}
		amount := ledger.Money{Currency: currency, Minor: minor}
		switch part {
		case 0:
			v.report.Transfers++
			g.row, g.digest, g.Description = true, digest, text
		case 1:
			v.report.Entries++
			add(v.sums, amount)
			g.entry(number, ledger.Posting{Account: text, Amount: amount})
		case 2:
			if len(g.holds) < maxPostings {
				g.holds = append(g.holds, ledger.Hold{ID: hold, Account: text, Amount: amount})
			}
		}
		return nil
	})
	v.group(g) // what was read is checked, whatever came after it
	return err
}

func (g *group) entry(sequence int64, p ledger.Posting) {
	if g.entries == 0 {
		g.first = sequence
	}
	g.entries++
	if g.entries <= maxPostings {
		g.Postings = append(g.Postings, p)
	}
	add(g.sums, p.Amount)
}

// add adds an amount to the sum in its currency, which may leave the range of int64 where the books were tampered with.
func add(sums map[string]*big.Int, m ledger.Money) {
	sum, ok := sums[m.Currency]
	if !ok {
		sum = new(big.Int)
		sums[m.Currency] = sum
	}
	sum.Add(sum, big.NewInt(m.Minor))
}

// group checks what there is of a transfer.
func (v *verifier) group(g *group) {
	switch {
	case g == nil:
	case !g.row:
		if g.entries > 0 {
			v.found.add(Orphan, "%d entries, the first of number %d, are of transfer %s, which is not in the books", g.entries, g.first, g.ID)
		}
		for _, h := range g.holds {
			v.found.add(Orphan, "hold %s was captured by transfer %s, which is not in the books", h.ID, g.ID)
		}
	default:
		v.captures(g)
		balanced := v.balanced(g)
		v.content(g, balanced)
	}
}

// balanced checks that the transfer moves money and neither makes nor loses any.
func (v *verifier) balanced(g *group) bool {
	balanced := true
	for currency, sum := range g.sums {
		if sum.Sign() != 0 {
			v.found.add(Unbalanced, "transfer %s sums to %v in %s, not to zero", g.ID, sum, currency)
			balanced = false
		}
	}
	if g.entries < 2 {
		v.found.add(Unbalanced, "transfer %s has %d entries, fewer than two", g.ID, g.entries)
		balanced = false
	}
	return balanced
}

// content checks that the transfer is one that the ledger takes, and the one that was posted.
func (v *verifier) content(g *group, balanced bool) {
	if balanced {
		if err := g.Validate(); err != nil {
			v.found.add(Content, "transfer %s: %v", g.ID, err)
		}
	}
	if g.entries > maxPostings {
		v.found.add(Content, "transfer %s has %d entries", g.ID, g.entries)
		return
	}
	if digest := g.Digest(); !bytes.Equal(digest[:], g.digest) {
		v.found.add(Digest, "transfer %s: its digest is %x, that of its content %x", g.ID, g.digest, digest)
	}
}

// captures checks the hold that the transfer captured, if any: it belongs to the content.
func (v *verifier) captures(g *group) {
	for i, h := range g.holds {
		g.HoldID = h.ID
		if i > 0 {
			v.found.add(Capture, "transfer %s has captured hold %s and hold %s", g.ID, g.holds[0].ID, h.ID)
		}
		var taken int64
		for _, p := range g.Postings {
			if p.Account == h.Account && p.Amount.Currency == h.Amount.Currency {
				taken = p.Amount.Minor
			}
		}
		switch {
		case taken >= 0:
			v.found.add(Capture, "transfer %s has captured hold %s, and takes nothing from %s in %s", g.ID, h.ID, h.Account, h.Amount.Currency)
		case taken < -h.Amount.Minor:
			v.found.add(Capture, "transfer %s takes %d from %s in %s, more than hold %s, of %d", g.ID, -taken, h.Account, h.Amount.Currency, h.ID, h.Amount.Minor)
		}
	}
}
