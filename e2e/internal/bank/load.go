package bank

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Load is calls from many callers at once, each with a number of its own.
type Load struct {
	callers sync.WaitGroup
	next    atomic.Int64

	mu      sync.Mutex
	ok      map[int]bool
	refused map[int]bool
	wrong   []string
}

// Drive makes calls over the connections, eight callers each, every caller one call after another until one of its calls fails.
func Drive(ctx context.Context, conns []*grpc.ClientConn, call func(ctx context.Context, conn *grpc.ClientConn, n int) error) *Load {
	const callersEach = 8
	l := &Load{ok: make(map[int]bool), refused: make(map[int]bool)}
	for range callersEach {
		for _, conn := range conns {
			l.callers.Go(func() {
				for l.one(ctx, conn, call) {
				}
			})
		}
	}
	return l
}

// one makes one call and reports whether it succeeded.
func (l *Load) one(ctx context.Context, conn *grpc.ClientConn, call func(context.Context, *grpc.ClientConn, int) error) bool {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	n := int(l.next.Add(1))
	err := call(ctx, conn, n)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch status.Code(err) {
	case codes.OK:
		l.ok[n] = true
		return true
	case codes.Unavailable:
		l.refused[n] = true
	default:
		l.wrong = append(l.wrong, fmt.Sprintf("call %d: %v", n, err))
	}
	return false
}

// Done returns how many calls have succeeded so far.
func (l *Load) Done() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ok)
}

// Outcome waits for every caller and returns which calls succeeded, which were answered UNAVAILABLE, and what else went wrong.
func (l *Load) Outcome() (ok, refused map[int]bool, wrong []string) {
	l.callers.Wait()
	return l.ok, l.refused, l.wrong
}
