package attest

import (
	"errors"
	"log/slog"
	"sync"

	"golang.org/x/time/rate"
)

const (
	// maxConnections and maxPerUser bound the connections there are at once: each holds some open files of the authority, and one
	// process that makes many must not use up what the others need.
	maxConnections = 1024
	maxPerUser     = 128
	// unknownUser stands for callers of whom not even the uid is known.
	unknownUser = -1
)

var (
	errTooMany        = errors.New("too many connections")
	errTooManyOfAUser = errors.New("too many connections of one user")
)

// limits counts connections.
type limits struct {
	log      *slog.Logger
	refusals *rate.Limiter

	mu    sync.Mutex
	total int
	users map[int64]int
}

func newLimits(log *slog.Logger) *limits {
	return &limits{log: log, refusals: rate.NewLimiter(1, 5), users: make(map[int64]int)}
}

// enter counts a connection of a user, or refuses it.
func (l *limits) enter(user int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	switch {
	case l.users[user] >= maxPerUser:
		err = errTooManyOfAUser
	case l.total >= maxConnections:
		err = errTooMany
	default:
		l.total++
		l.users[user]++
		return nil
	}
	if l.refusals.Allow() {
		l.log.Warn("a connection to the Workload API is refused", "uid", user, "of_this_uid", l.users[user], "of_all", l.total, "error", err)
	}
	return err
}

// leave counts a connection no more.
func (l *limits) leave(user int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.users[user]--; l.users[user] == 0 {
		delete(l.users, user)
	}
}
