package identity

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// maxUnwritten bounds the lines that wait for a log that is slow.
const maxUnwritten = 256

// lines is a log for one who holds a lock. A handler is other people's code: it may take its time, and it may ask whatever it logs about. So
// adding a line calls none of it. A goroutine of its own, which ends when there is nothing to write, writes the lines in their order.
type lines struct {
	handler slog.Handler
	writing sync.WaitGroup

	mu        sync.Mutex
	unwritten []slog.Record
	lost      int // that found no room since the last line that did
	busy      bool
}

// add leaves a line to be written. It must not be called during wait or after it.
func (l *lines) add(level slog.Level, msg string, args ...any) {
	var caller [1]uintptr
	runtime.Callers(2, caller[:]) // the source position of the line, should the handler want it
	line := slog.NewRecord(time.Now(), level, msg, caller[0])
	line.Add(args...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.unwritten) == maxUnwritten {
		l.lost++
		return
	}
	if l.lost > 0 {
		line.Add("not_logged_before", l.lost)
		l.lost = 0
	}
	l.unwritten = append(l.unwritten, line)
	if !l.busy {
		l.busy = true
		l.writing.Go(l.write)
	}
}

// write writes until there is nothing left.
func (l *lines) write() {
	ctx := context.Background() // no line is about a request
	for line, ok := l.next(); ok; line, ok = l.next() {
		if l.handler.Enabled(ctx, line.Level) {
			_ = l.handler.Handle(ctx, line) // as slog does: there is no log to say it in
		}
	}
}

func (l *lines) next() (line slog.Record, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.unwritten) == 0 {
		l.busy = false
		return slog.Record{}, false
	}
	line = l.unwritten[0]
	l.unwritten = l.unwritten[1:]
	return line, true
}

// wait returns when every line is written.
func (l *lines) wait() { l.writing.Wait() }
