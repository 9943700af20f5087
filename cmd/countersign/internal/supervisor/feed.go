package supervisor

import (
	"fmt"
	"sync"
	"time"
)

const (
	// feedLength is how much may wait for who looks on before lines are dropped.
	feedLength = 4096
	// feedPatience is how long the end of a mesh waits for who looks on.
	feedPatience = time.Second
)

// feed hands what happens to who looks on, in order, and never waits for them: a terminal that is paused must not stop a bank.
// It is safe for concurrent use.
type feed struct {
	line  func(program, line string)
	queue chan func()
	done  chan struct{}

	mu      sync.Mutex
	dropped int
}

func newFeed(line func(program, line string)) *feed {
	f := &feed{line: line, queue: make(chan func(), feedLength), done: make(chan struct{})}
	go f.run()
	return f
}

func (f *feed) run() {
	defer close(f.done)
	for show := range f.queue {
		show()
		f.mu.Lock()
		// Lines are dropped only behind a full queue, so the place of those that were is here, once it is empty.
		missing := 0
		if len(f.queue) == 0 {
			missing, f.dropped = f.dropped, 0
		}
		f.mu.Unlock()
		if missing > 0 {
			f.tell(missing)
		}
	}
}

func (f *feed) tell(missing int) {
	f.line("up", fmt.Sprintf("%d lines were dropped here, since nobody read them; the log files have all", missing))
}

// add shows a line, or counts it when there is no room. After a gap there is room again only once the gap was told of.
func (f *feed) add(program, line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dropped == 0 {
		select {
		case f.queue <- func() { f.line(program, line) }:
			return
		default:
		}
	}
	f.dropped++
}

// put has show called in its turn. It waits for room until giveUp is closed.
func (f *feed) put(giveUp <-chan struct{}, show func()) {
	select {
	case f.queue <- show:
	case <-giveUp:
	}
}

// close waits until all was shown, but not for ever: a reader that stalls keeps the goroutine, and nothing else. Nothing may
// be added any more.
func (f *feed) close() {
	close(f.queue)
	timer := time.NewTimer(feedPatience)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C:
	}
}
