package store_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/services/accounts/internal/register"
	"github.com/countersign-mesh/countersign/services/accounts/internal/store"
)

// kind is one of the operations that change what an account may be used for, or ask for it.
type kind string

const (
	freeze   kind = "freeze"
	unfreeze kind = "unfreeze"
	begin    kind = "begin to close"
	abandon  kind = "abandon"
	finish   kind = "finish"
	get      kind = "get"
)

// lease is how long the attempts of these tests have.
const lease = 10 * time.Minute

// op is one operation. Times are minutes after noon.
type op struct {
	kind    kind
	attempt string
	minute  int
}

// String writes an operation for whoever reads a failure.
func (o op) String() string { return fmt.Sprintf("%s %s at %d", o.kind, o.attempt, o.minute) }

func at(minute int) time.Time { return noon.Add(time.Duration(minute) * time.Minute) }

// run asks the store. It returns what was answered in a few words.
func (o op) run(ctx context.Context, s *store.Store, accountID string) string {
	by := register.Intervention{Actor: "spiffe://bank.test/operator", Reason: o.String(), Time: at(o.minute)}
	switch o.kind {
	case freeze:
		return words(s.Freeze(ctx, accountID, by))
	case unfreeze:
		return words(s.Unfreeze(ctx, accountID, by))
	case begin:
		return words(s.BeginClosing(ctx, accountID, register.Attempt{Name: o.attempt, Until: at(o.minute).Add(lease)}))
	case abandon:
		return words(s.AbandonClosing(ctx, accountID, o.attempt))
	case finish:
		return words(s.FinishClosing(ctx, accountID, o.attempt, at(o.minute)))
	case get:
		return words(s.Get(ctx, accountID))
	default:
		return "no such operation"
	}
}

func words(a register.Account, err error) string {
	switch {
	case errors.Is(err, register.ErrBusy):
		return "busy"
	case errors.Is(err, register.ErrClosed):
		return "refused: closed"
	case err != nil:
		return err.Error()
	case a.Closed():
		return fmt.Sprintf("closed at %d", minutes(a.CloseTime))
	case a.Frozen():
		return fmt.Sprintf("frozen at %d", minutes(a.FreezeTime))
	case !a.Usable():
		return fmt.Sprintf("being closed by %s until %d", a.Closing.Name, minutes(a.Closing.Until))
	default:
		return "open"
	}
}

func minutes(t time.Time) int { return int(t.Sub(noon) / time.Minute) }

// model is what an account is, written down once more and without a database. The zero value is an open account. It is comparable.
type model struct {
	status        string // "", "frozen", "closing" or "closed"
	since         int    // frozen or closed; until, while it is being closed
	attempt       string
	interventions int
}

// apply returns what an account is after an operation, and what is answered.
func (m model) apply(o op) (model, string) {
	switch o.kind {
	case freeze:
		return m.freeze(o)
	case unfreeze:
		if m.status == "closed" {
			return m, "refused: closed"
		}
		if m.status == "frozen" {
			m = model{interventions: m.interventions + 1}
		}
		return m, m.words()
	case begin:
		until := o.minute + minutes(noon.Add(lease))
		switch m.status {
		case "":
			m.status, m.attempt, m.since = "closing", o.attempt, until
		case "closing":
			m.since = max(m.since, until)
		}
		return m, m.words()
	case abandon:
		if m.status == "closing" && m.attempt == o.attempt {
			m = model{interventions: m.interventions}
		}
		return m, m.words()
	case finish:
		if m.status == "closing" && m.attempt == o.attempt {
			m = model{status: "closed", since: o.minute, interventions: m.interventions}
		}
		if m.status != "closed" {
			return m, "busy"
		}
		return m, m.words()
	default:
		return m, m.words()
	}
}

func (m model) freeze(o op) (model, string) {
	switch {
	case m.status == "closed":
		return m, "refused: closed"
	case m.status == "closing" && o.minute < m.since:
		return m, "busy"
	case m.status == "frozen":
		return m, m.words()
	default:
		m = model{status: "frozen", since: o.minute, interventions: m.interventions + 1}
		return m, m.words()
	}
}

func (m model) words() string {
	switch m.status {
	case "frozen", "closed":
		return fmt.Sprintf("%s at %d", m.status, m.since)
	case "closing":
		return fmt.Sprintf("being closed by %s until %d", m.attempt, m.since)
	default:
		return "open"
	}
}
