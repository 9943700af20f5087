package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	sessionFile = "session.json"
	// lockInterval is how often a lock is tried again that another process holds.
	lockInterval = 20 * time.Millisecond
)

// Resume goes on with a session that Keep has written into a directory.
func (d *Device) Resume(s Server, dir string) (*Session, error) {
	c, err := newClient(s, d)
	if err != nil {
		return nil, err
	}
	session := newSession(d, c, &state{}, dir)
	if err := session.load(); err != nil {
		return nil, fmt.Errorf("resume a session: %w", err)
	}
	return session, nil
}

// Keep writes the session into a directory, for the owner alone to read, and again whenever its tokens change. Several processes may use the
// same one.
func (s *Session) Keep(dir string) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.dir = dir
	return s.store()
}

func (s *Session) store() error {
	if s.dir == "" {
		return nil
	}
	text, err := json.Marshal(s.state()) //nolint:gosec // G117: it is kept for the owner alone, which is what Keep is for
	if err == nil {
		err = writeFile(s.dir, sessionFile, text)
	}
	if err != nil {
		return fmt.Errorf("keep the session: %w", err)
	}
	return nil
}

func (s *Session) load() error {
	text, err := os.ReadFile(filepath.Join(s.dir, sessionFile))
	if err != nil {
		return err
	}
	var kept state
	if err := json.Unmarshal(text, &kept); err != nil {
		return errors.New("the file of the session cannot be read") // the cause may hold some of it
	}
	*s.state() = kept
	return nil
}

// locked runs f while no other process changes the session, with what those before have left. flock(2) on the directory is gone with its
// holder.
func (s *Session) locked(ctx context.Context, f func(context.Context) error) error {
	if s.dir == "" {
		return f(ctx)
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("lock the session: %w", err)
	}
	defer func() { _ = dir.Close() }() // which unlocks it
	tick := time.NewTicker(lockInterval)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("lock the session: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := s.load(); err != nil {
		return fmt.Errorf("read the session: %w", err)
	}
	return f(ctx)
}
