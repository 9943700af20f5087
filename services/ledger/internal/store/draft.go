package store

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
)

// load reads what of the books a batch concerns.
func (in within) load(batch []*request) (*ledger.Draft, error) {
	d := ledger.NewDraft()
	var transfers, holds, accounts keys
	for _, r := range batch {
		transfers.add(r.transfer)
		holds.add(r.hold)
		for _, a := range r.accounts {
			accounts.add(a)
		}
	}
	err := in.read(readTransfers, &transfers.table, func(row scanner) error {
		var (
			id     string
			digest []byte
			micros int64
		)
		if err := row.Scan(&id, &digest, &micros); err != nil {
			return err
		}
		p := ledger.Posted{Time: instant(micros)}
		if copy(p.Digest[:], digest) != len(p.Digest) {
			return fmt.Errorf("%w: the digest of transfer %s is too short", ledger.ErrDamaged, id)
		}
		d.KnowTransfer(id, p)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for transfers: %w", err)
	}
	err = in.read(readHolds, &holds.table, func(row scanner) error {
		_, h, err := scanHold(row)
		if err == nil {
			d.KnowHold(h)
			accounts.add(h.Account)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for holds: %w", err)
	}
	err = in.read(readBalances, &accounts.table, func(row scanner) error {
		var (
			account string
			b       ledger.Balance
		)
		if err := row.Scan(&account, &b.Currency, &b.Minor, &b.Held); err != nil {
			return err
		}
		d.KnowBalance(account, b)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read balances: %w", err)
	}
	return d, nil
}

// keys is a set of keys, each a row.
type keys struct {
	table table
	seen  map[string]bool
}

// add adds a key. The empty one is none.
func (k *keys) add(key string) {
	if key == "" || k.seen[key] {
		return
	}
	if k.seen == nil {
		k.seen = make(map[string]bool)
	}
	k.seen[key] = true
	k.table.add(key)
}

// save writes what the draft adds to the books.
func (in within) save(c ledger.Changes) error {
	var transfers, entries, made, ended, balances table
	for _, t := range c.Transfers {
		transfers.add(t.ID, hex.EncodeToString(t.Posted.Digest[:]), t.Description, t.Time.UnixMicro())
	}
	for _, e := range c.Entries {
		entries.add(e.TransferID, e.Account, e.Amount.Currency, e.Amount.Minor, e.BalanceAfter.Minor)
	}
	for _, h := range c.Made {
		state, transfer, end := holdEnd(h)
		made.add(h.ID, h.Account, h.Amount.Currency, h.Amount.Minor, h.CreateTime.UnixMicro(), state, transfer, end)
	}
	for _, h := range c.Ended {
		state, transfer, end := holdEnd(h)
		ended.add(h.ID, state, transfer, end)
	}
	for _, b := range c.Balances {
		balances.add(b.Account, b.Currency, b.Minor, b.Held)
	}
	for _, step := range []struct {
		what, statement string
		rows            *table
	}{
		{"add transfers", addTransfers, &transfers},
		{"add entries", addEntries, &entries},
		{"add holds", addHolds, &made},
		{"end holds", endHolds, &ended},
		{"write balances", writeBalances, &balances},
	} {
		if err := in.exec(step.statement, step.rows); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// holdEnd returns what changes of a hold, in the columns state, transfer_id and end_time.
func holdEnd(h ledger.Hold) (state string, transfer, end any) {
	if h.State == ledger.HoldCaptured {
		transfer = h.TransferID
	}
	if h.State != ledger.HoldActive {
		end = h.EndTime.UnixMicro()
	}
	return h.State.String(), transfer, end
}

func instant(micros int64) time.Time { return time.UnixMicro(micros).UTC() }
