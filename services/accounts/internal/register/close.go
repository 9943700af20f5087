package register

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

const (
	// closeAttempts bounds how often Close starts over because another attempt on the same account got in between.
	closeAttempts = 3
	// attemptTimeout is how long an attempt has before others may give it up. It asks the ledger once, which takes 3 seconds at the most
	// (books.ServiceConfig), and writes twice.
	attemptTimeout = 30 * time.Second
	// abandonTimeout bounds the write that gives an account free again after its caller has gone.
	abandonTimeout = 5 * time.Second
)

// Closings keeps how far the closing of an account has come.
type Closings interface {
	// BeginClosing takes an account out of use for an attempt. When one is under way already, it joins that one, which then lasts as long as
	// the longer of the two. It returns the account as it then is; a closed or frozen one stays as it is.
	BeginClosing(ctx context.Context, accountID string, attempt Attempt) (Account, error)
	// AbandonClosing gives an account free again if the attempt of that name is the one under way; otherwise it changes nothing. It returns the
	// account as it then is.
	AbandonClosing(ctx context.Context, accountID, name string) (Account, error)
	// FinishClosing closes an account if the attempt of that name is the one under way. It returns the account when it is closed then, and
	// ErrBusy when it is not: the attempt was given up.
	FinishClosing(ctx context.Context, accountID, name string, at time.Time) (Account, error)
}

// Close closes an account whose balance is zero. Closing a closed account changes nothing. The error is ErrNotFound, ErrFrozen, ErrNotEmpty,
// ErrBooksAway, or ErrBusy when others kept getting in between.
//
// The balance is the ledger's, and money may arrive while it is being asked for. So an attempt first takes the account out of use: whoever asks
// from that commit on is told that it is not usable. Only then the balance is asked for, and what is closed was zero after that commit. If it was
// not, the account is usable again, as if nothing had been tried; a first look at the balance, before the attempt begins, keeps that from
// being noticed in all but a real race.
//
// A process that dies in the middle leaves its attempt behind, and another process cannot know whether it died or is slow. So an attempt
// has a time limit, after which whoever comes upon it gives it up (settle). That is a write: an account is told to be usable only after the
// attempt's name is gone from it, and then nobody can finish that attempt any more, however late their clock. The clocks of two
// processes decide how soon an attempt is given up, and not whether what holds below does.
//
// What holds: nobody who asks for the account between the beginning of the attempt that closed it and the end of time finds it usable; and every
// payment that the ledger had posted when it was asked was seen. What does not: payments may have been told just before that the account is
// usable, and post its payment after Close has returned. It looks at both accounts once more before it posts, so that this is a matter of
// moments; but when the ledger went away at that point, it is a matter of how long that takes. Such a payment still arrives. It is not lost, since the ledger keeps it and GetBalance and
// ListEntries show it on the closed account; paying it out is for a person. One that the closed account was to pay is refused for
// want of money, unless another has so arrived. To refuse all, the ledger would have to know which accounts are closed.
func (r *Register) Close(ctx context.Context, accountID string) (Account, error) {
	for range closeAttempts {
		account, err := r.closeOnce(ctx, accountID)
		if !errors.Is(err, ErrBusy) {
			return account, err
		}
	}
	return Account{}, ErrBusy
}

func (r *Register) closeOnce(ctx context.Context, accountID string) (Account, error) {
	account, err := r.store.Get(ctx, accountID)
	if over, err := closeIsOver(account, err); over {
		return account, err
	}
	if err := r.requireEmpty(ctx, accountID); err != nil {
		return Account{}, err
	}
	account, err = r.closings.BeginClosing(ctx, accountID, Attempt{Name: rand.Text(), Until: r.now().Add(attemptTimeout)})
	if over, err := closeIsOver(account, err); over {
		return account, err
	}
	if err := r.requireEmpty(ctx, accountID); err != nil {
		return Account{}, r.abandon(ctx, account, err)
	}
	closed, err := r.closings.FinishClosing(ctx, accountID, account.Closing.Name, r.now())
	if err != nil && !errors.Is(err, ErrBusy) {
		return Account{}, r.abandon(ctx, account, err)
	}
	return closed, err
}

// closeIsOver reports whether there is nothing to close in what the store has returned, and with which error.
func closeIsOver(account Account, err error) (bool, error) {
	if err == nil && account.Frozen() {
		err = ErrFrozen
	}
	return err != nil || account.Closed(), err
}

func (r *Register) requireEmpty(ctx context.Context, accountID string) error {
	empty, err := r.books.Empty(ctx, accountID)
	if err != nil {
		return fmt.Errorf("ask for the balance: %w", err)
	}
	if !empty {
		return ErrNotEmpty
	}
	return nil
}

// abandon gives the account free again, also when the caller has gone, and returns why. Where even that fails, the attempt ends by itself.
func (r *Register) abandon(ctx context.Context, account Account, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	if _, err := r.closings.AbandonClosing(ctx, account.ID, account.Closing.Name); err != nil {
		return errors.Join(cause, fmt.Errorf("give account %s free again: %w", account.ID, err))
	}
	return cause
}

// settle gives up an attempt to close the account that is overdue, and returns the account as it then is.
func (r *Register) settle(ctx context.Context, account Account) (Account, error) {
	if !account.Closing.overdue(r.now()) {
		return account, nil
	}
	account, err := r.closings.AbandonClosing(ctx, account.ID, account.Closing.Name)
	if err != nil {
		return Account{}, fmt.Errorf("give up an attempt to close account %s: %w", account.ID, err)
	}
	return account, nil
}
