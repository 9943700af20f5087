package verify

import (
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"
)

// Kind is a kind of fault. Its text is for people and for JSON.
type Kind string

// The kinds of faults, in the order of a report.
const (
	// Unreadable is a part of the database that could not be read.
	Unreadable Kind = "unreadable"
	// Storage is what the database's own check found.
	Storage Kind = "storage"
	// Schema is a table, trigger or constraint that is not as the ledger made it: what guards the books may be off.
	Schema Kind = "schema"
	// Numbering is a number of an entry or hold that was given and is not there.
	Numbering Kind = "numbering"
	// Unbalanced is a transfer out of which money appears or into which it vanishes.
	Unbalanced Kind = "unbalanced"
	// Content is a transfer or hold that is not one which the ledger writes.
	Content Kind = "content"
	// Digest is a transfer whose content is not that which was posted.
	Digest Kind = "digest"
	// Orphan is an entry, or the end of a hold, of a transfer that is not in the books.
	Orphan Kind = "orphan"
	// Capture is a hold that was captured by a transfer which does not take it.
	Capture Kind = "capture"
	// Chain is an entry after which the account has not what it had before plus the entry.
	Chain Kind = "chain"
	// Overdraft is a customer's account that is or was below zero, or below what is held of it.
	Overdraft Kind = "overdraft"
	// Balance is a balance that is not the sum of the account's entries.
	Balance Kind = "balance"
	// Held is a balance whose held part is not the sum of the account's active holds.
	Held Kind = "held"
)

func kinds() []Kind {
	return []Kind{Unreadable, Storage, Schema, Numbering, Unbalanced, Content, Digest, Orphan, Capture, Chain, Overdraft, Balance, Held}
}

// Fault is what is wrong in one way.
type Fault struct {
	Kind  Kind  `json:"kind"`
	Count int64 `json:"count"`
	// Places are the first of them, as many as the report may name.
	Places []string `json:"places"`
}

// Sum is the sum of all entries in a currency, in minor units: zero in books in order.
type Sum struct {
	Currency string   `json:"currency"`
	Minor    *big.Int `json:"minor_units"`
}

// Holds counts holds by their state.
type Holds struct {
	Active   int64 `json:"active"`
	Captured int64 `json:"captured"`
	Released int64 `json:"released"`
}

// Report is what was checked in a database, and what was found.
type Report struct {
	// Time is of which moment the database was looked at.
	Time time.Time `json:"time"`
	// Schema is the version of the database's schema.
	Schema int64 `json:"schema_version"`
	// Storage names the checks of the database's own that were made, or says why one was not.
	Storage   []string `json:"storage_checks"`
	Transfers int64    `json:"transfers"`
	Entries   int64    `json:"entries"`
	// Balances counts the accounts, each once a currency.
	Balances int64   `json:"balances"`
	Holds    Holds   `json:"holds"`
	Sums     []Sum   `json:"sums"`
	Faults   []Fault `json:"faults"`
	// Sound is true when there are no faults.
	Sound bool `json:"sound"`
}

// FaultCount returns the number of faults of all kinds.
func (r Report) FaultCount() (n int64) {
	for _, f := range r.Faults {
		n += f.Count
	}
	return n
}

// Write writes the report for a person.
func (r Report) Write(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-10s "+format+"\n", append([]any{name}, args...)...)
	}
	fmt.Fprintf(&b, "The books as of %s\n\n", r.Time.UTC().Format(time.RFC3339))
	line("schema", "version %d", r.Schema)
	line("storage", "%s", strings.Join(r.Storage, ", "))
	line("transfers", "%d, each with its entries and its digest", r.Transfers)
	line("entries", "%d, each with the balance after it", r.Entries)
	line("balances", "%d, each with its entries and its holds", r.Balances)
	line("holds", "%d active, %d captured, %d released", r.Holds.Active, r.Holds.Captured, r.Holds.Released)
	for _, s := range r.Sums {
		verdict := "in balance"
		if s.Minor.Sign() != 0 {
			verdict = "NOT in balance"
		}
		line("sum", "%s %v minor units: %s", s.Currency, s.Minor, verdict)
	}
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "\nFAULT %s: %d\n", f.Kind, f.Count)
		for _, place := range f.Places {
			fmt.Fprintf(&b, "  - %s\n", place)
		}
		if more := f.Count - int64(len(f.Places)); more > 0 {
			fmt.Fprintf(&b, "  … and %d more\n", more)
		}
	}
	if r.Sound {
		b.WriteString("\nThe books are in order.\n")
	} else {
		fmt.Fprintf(&b, "\nThe books are NOT in order: %d faults.\n", r.FaultCount())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// findings collects faults, a bounded number of places of each kind.
type findings struct {
	places int
	faults map[Kind]*Fault
}

// maxPlace bounds the text of a place, in bytes: what was tampered with may be of any length.
const maxPlace = 400

func (f *findings) add(kind Kind, format string, args ...any) {
	fault, ok := f.faults[kind]
	if !ok {
		fault = &Fault{Kind: kind, Places: []string{}}
		f.faults[kind] = fault
	}
	fault.Count++
	if len(fault.Places) < f.places {
		place := strings.ToValidUTF8(fmt.Sprintf(format, args...), "\uFFFD")
		if len(place) > maxPlace {
			place = strings.ToValidUTF8(place[:maxPlace], "") + "…"
		}
		fault.Places = append(fault.Places, strings.Map(printable, place))
	}
}

// printable keeps what was written into a database from moving a terminal's cursor.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
		return '\uFFFD'
	}
	return r
}

func (f *findings) list() []Fault {
	list := []Fault{}
	for _, kind := range kinds() {
		if fault, ok := f.faults[kind]; ok {
			list = append(list, *fault)
		}
	}
	return list
}
