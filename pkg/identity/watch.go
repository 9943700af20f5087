package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// firstRetry and lastRetry bound the pause between attempts. A mesh whose authority was away for long is to be back within five
	// seconds of its return, an answer and a handshake included.
	firstRetry = 250 * time.Millisecond
	lastRetry  = 2 * time.Second
	// firstMessage is how long it may take to connect and until the first message comes, which is due at once (Workload API §4.3).
	firstMessage = 10 * time.Second
	// settled is how long a stream that granted the identity has to have been open for its denial to be asked about, so that an API that grants and
	// denies in turn is not asked without a pause; doubt is how long that may take.
	settled = time.Second
	doubt   = 2 * time.Second
)

// watch follows the Workload API until ctx ends.
//
// It retries whatever the answer. Workload Endpoint §6 would have a client give up on INVALID_ARGUMENT, as that speaks of a fault in
// the client; but a proxy or an agent that is just starting gives that answer too, and a process that has given up dies of
// it when its SVID expires.
func (s *Source) watch(ctx context.Context, e endpoint) {
	for attempt := 0; ; attempt++ {
		good, err := s.ask(ctx, e)
		if ctx.Err() != nil {
			return
		}
		s.lost(err)
		if good {
			attempt = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff(attempt, s.patience())):
		}
	}
}

// ask follows a stream to its end. One that ends with PERMISSION_DENIED after it had granted the identity is not taken at its word: it is asked again,
// at once, and only what nobody takes back within the doubt stands.
//
// SPIRE's agent (1.15) ends every stream so when an authority of its trust domain is tainted: it has thrown the SVIDs of that authority away and has
// not got the new ones yet. Whoever asks then waits for the new one, while a process that no entry is for any more is denied again right away.
func (s *Source) ask(ctx context.Context, e endpoint) (good bool, err error) {
	for wait := s.opts.firstMessage; ; wait = doubt {
		begin := s.opts.now()
		granted, end := s.follow(ctx, e, wait)
		if good && !granted {
			return good, err // the denial
		}
		good, err = granted, end
		if !good || status.Code(err) != codes.PermissionDenied || s.opts.now().Sub(begin) < settled {
			return good, err
		}
		s.log.add(slog.LevelWarn, "Workload API denied the identity that it had granted, asking again", "socket", s.addr, "err", err)
	}
}

// backoff returns how long to wait before the next attempt: twice as long each time up to a limit, and spread, so that the many
// clients of an API that restarts do not come back at once.
func backoff(attempt int, limit time.Duration) time.Duration {
	ceiling := limit
	if attempt < 3 { // a shift that cannot overflow
		ceiling = min(limit, firstRetry<<attempt)
	}
	return ceiling/5 + rand.N(ceiling*4/5) //nolint:gosec // it spreads load, it hides nothing
}

// received is one message of a stream, or its end.
type received struct {
	resp *workload.X509SVIDResponse
	err  error
}

// follow reads one stream to its end. The connection and the first message have so long together, since what listens may accept and say nothing.
// good says whether it brought a response that could be used; one that withdraws the identity is none, so that an API that answers so and hangs up is asked ever less often.
func (s *Source) follow(ctx context.Context, e endpoint, first time.Duration) (good bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	opening := time.AfterFunc(first, cancel)
	stream, conn, err := e.open(ctx)
	if !opening.Stop() && err != nil {
		return false, fmt.Errorf("no connection within %s", first)
	}
	if err != nil {
		return false, err
	}
	messages := make(chan received)
	var receiving sync.WaitGroup
	receiving.Go(func() { receive(ctx, stream, messages) })
	defer func() {
		cancel()
		_ = conn.Close() // it fails only when it was closed before
		receiving.Wait()
	}()
	answered := false
	for wait := first - time.Since(began); ; wait = s.untilExpiry() {
		m, arrived := next(ctx, messages, wait)
		switch {
		case !arrived && !answered:
			return false, fmt.Errorf("no message within %s", first)
		case !arrived && s.isOverdue():
			// Either the API is stuck or this machine slept: a new stream is answered at once.
			return good, ErrExpired
		case !arrived:
			continue
		case m.err != nil:
			return good, m.err
		}
		granted, err := s.accept(m.resp)
		if err != nil {
			return good, err
		}
		answered, good = true, good || granted
	}
}

// receive passes a stream's messages on until it or ctx ends.
func receive(ctx context.Context, stream workload.SpiffeWorkloadAPI_FetchX509SVIDClient, messages chan<- received) {
	for {
		resp, err := stream.Recv()
		select {
		case messages <- received{resp, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// next waits for a message, for so long.
func next(ctx context.Context, messages <-chan received, wait time.Duration) (m received, arrived bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case m := <-messages:
		return m, true
	case <-ctx.Done():
		return received{err: ctx.Err()}, true
	case <-timer.C:
		return received{}, false
	}
}

// accept takes a response into use, or refuses it. granted says whether it grants the identity.
func (s *Source) accept(resp *workload.X509SVIDResponse) (granted bool, err error) {
	now := s.opts.now()
	// Nobody waits for the parsing: only this goroutine changes what is held.
	m, err := parseResponse(resp, s.choice(), now)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, errNotGranted) && s.held != nil:
		// A response is complete (Workload API §5.2.1): what it does not grant is withdrawn. It is not an error of the stream.
		s.withdraw(err)
		s.connected, s.lostErr = true, nil
		return false, nil
	case err != nil:
		return false, fmt.Errorf("response refused: %w", err)
	}
	s.announce(m)
	for _, err := range m.refused {
		s.log.add(slog.LevelWarn, "part of a Workload API response refused, its trust domain is not trusted", "err", err)
	}
	if n := len(resp.GetCrl()); n > 0 {
		s.log.add(slog.LevelWarn, "Workload API sent revocation lists, which are not evaluated", "lists", n)
	}
	if s.held == nil || s.held.serial != m.serial {
		s.rotated = now
		if s.held != nil {
			s.rotations++
		}
	}
	s.held, s.connected, s.withdrawn, s.lastErr, s.lostErr = m, true, false, nil, nil
	s.broadcast()
	return true, nil
}

// choice is which SVID of a response is ours: the options', and once there is one, of that ID.
func (s *Source) choice() choice {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil {
		return choice{id: s.held.svid.ID, hint: s.opts.hint}
	}
	return choice{id: s.opts.id, hint: s.opts.hint}
}

// announce logs what a response changes. The caller holds mu.
func (s *Source) announce(m *material) {
	id, expires := m.svid.ID.String(), stamp(m.notAfter)
	if s.held == nil {
		s.log.add(slog.LevelInfo, "identity received", "id", id, "socket", s.addr, "serial", m.serial, "expires", expires)
		return
	}
	switch {
	case s.withdrawn:
		s.log.add(slog.LevelInfo, "identity granted again", "id", id, "serial", m.serial, "expires", expires)
	case !s.connected:
		s.log.add(slog.LevelInfo, "Workload API is back", "id", id, "socket", s.addr)
	}
	if s.held.serial != m.serial {
		s.log.add(slog.LevelInfo, "identity rotated", "id", id, "old_serial", s.held.serial, "serial", m.serial, "expires", expires)
	}
	if !s.held.sameBundles(m) {
		s.log.add(slog.LevelInfo, "trust bundles changed", "id", id, "trust_domains", len(m.bundles))
	}
}

// lost takes note of the end of a stream.
func (s *Source) lost(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wasConnected := s.connected
	s.connected = false
	s.failures++
	if status.Code(err) == codes.PermissionDenied && s.held != nil {
		s.withdraw(err)
		return
	}
	if wasConnected || s.lostErr == nil || s.lostErr.Error() != err.Error() {
		s.log.add(slog.LevelWarn, "Workload API is away, retrying", "socket", s.addr, "err", err)
	}
	s.lostErr = err
	if !s.withdrawn { // otherwise why the identity is not used is still that it was withdrawn
		s.lastErr = err
	}
	if wasConnected {
		s.broadcast()
	}
}

// withdraw stops the use of the identity (Workload API §5.2.1). The caller holds mu.
func (s *Source) withdraw(err error) {
	if !s.withdrawn {
		s.log.add(slog.LevelError, "identity withdrawn, no longer used", "id", s.held.svid.ID.String(), "serial", s.held.serial, "err", err)
	}
	s.withdrawn, s.lastErr = true, err
	s.broadcast()
}
