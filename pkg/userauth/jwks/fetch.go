package jwks

import (
	"bytes"
	"context"
	"time"
)

const (
	// firstRetry is the wait after a fetch that failed; each more is twice as long.
	firstRetry = time.Second
	// lastRetry bounds it while no key is usable: nobody is let in as long, and who waits is not to wait much longer than for the endpoint to be back.
	lastRetry = 2 * time.Second
)

// Run fetches the keys at once and then regularly until ctx ends; it returns nil then. After a fetch that failed it tries again sooner, and at least every two
// seconds as long as there is no key to use.
func (s *Set) Run(ctx context.Context) error {
	retry := firstRetry
	for {
		wait := s.interval
		if err := s.fetchOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the keys of tokens cannot be fetched; those known are used meanwhile", "error", err)
			if s.Ready() != nil {
				retry = min(retry, lastRetry)
			}
			wait = min(retry, s.interval)
			retry = 2 * wait
		} else {
			retry = firstRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// refresh fetches unless that was done a moment ago. It waits for a fetch that is under way.
func (s *Set) refresh(ctx context.Context) error {
	if !s.due() {
		return nil
	}
	return s.fetchOnce(ctx)
}

// due says whether it is time to fetch for a name that is not known, or somebody is doing so.
func (s *Set) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetching || s.tried.IsZero() || s.now().Sub(s.tried) >= s.pause
}

// fetchOnce fetches, or waits for the fetch that is under way. The fetch is everybody's: it does not end with the call that began it.
func (s *Set) fetchOnce(ctx context.Context) error {
	flight := s.flights.DoChan("", func() (any, error) { return nil, s.fetchNow(context.WithoutCancel(ctx)) })
	select {
	case <-ctx.Done():
		return ctx.Err()
	case done := <-flight:
		return done.Err
	}
}

func (s *Set) fetchNow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	s.mu.Lock()
	began := s.now()
	s.tried, s.fetching = began, true
	s.mu.Unlock()
	document, err := s.fetch(ctx)
	if err == nil {
		err = s.take(ctx, document, began)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed, s.fetching = err, false
	return err
}

// take makes a document the keys. One that is the same as before makes them younger.
func (s *Set) take(ctx context.Context, document []byte, fetched time.Time) error {
	if old := s.current.Load(); old != nil && bytes.Equal(old.document, document) {
		s.current.Store(&keys{document: old.document, byID: old.byID, fetched: fetched})
		return nil
	}
	byID, bad, err := parse(document)
	if err != nil {
		return err
	}
	for _, problem := range bad {
		s.log.WarnContext(ctx, "a key of tokens is not used", "error", problem)
	}
	s.current.Store(&keys{document: bytes.Clone(document), byID: byID, fetched: fetched})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return nil
}
