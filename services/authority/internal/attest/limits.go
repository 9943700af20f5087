package attest

import (
	"errors"
	"log/slog"
	"sync"

	"golang.org/x/time/rate"
)

const (
	// maxConnections and maxPerParty bound the connections there are at once: each holds some open files of the authority, and one
	// process that makes many must not use up what the others need.
	maxConnections = 1024
	maxPerParty    = 128
	// unknownUser stands for callers of whom not even the uid is known.
	unknownUser = -1
)

var (
	errTooMany         = errors.New("too many connections")
	errTooManyOfAParty = errors.New("too many connections of one user, or over one socket with a name")
)

// party is whom a connection counts for: a user, or whoever was given a socket with a name. All containers may run as one user, and
// then one that makes many connections would take them from all.
type party struct {
	socket string
	uid    int64
}

// limits counts connections.
type limits struct {
	log      *slog.Logger
	refusals *rate.Limiter

	mu      sync.Mutex
	total   int
	parties map[party]int
}

func newLimits(log *slog.Logger) *limits {
	return &limits{log: log, refusals: rate.NewLimiter(1, 5), parties: make(map[party]int)}
}

// enter counts a connection of a party, or refuses it.
func (l *limits) enter(who party) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	switch {
	case l.parties[who] >= maxPerParty:
		err = errTooManyOfAParty
	case l.total >= maxConnections:
		err = errTooMany
	default:
		l.total++
		l.parties[who]++
		return nil
	}
	if l.refusals.Allow() {
		l.log.Warn("a connection to the Workload API is refused", append(who.attrs(), "of_these", l.parties[who], "of_all", l.total, "error", err)...)
	}
	return err
}

// leave counts a connection no more.
func (l *limits) leave(who party) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.parties[who]--; l.parties[who] == 0 {
		delete(l.parties, who)
	}
}

func (w party) attrs() []any {
	if w.socket != "" {
		return []any{"socket", w.socket}
	}
	return []any{"uid", w.uid}
}
