package faults_test

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// process has the books in a process of its own, which is killed and started again. Calls go to the one that is alive. It is safe for
// concurrent use, but for start and kill.
type process struct {
	dsn, fault string
	lives      int

	mu    sync.Mutex
	alive *life
	next  chan struct{} // closed when another life begins
}

// life is one process, from its start to its end.
type life struct {
	cmd  *exec.Cmd
	in   *os.File
	gone chan struct{} // closed when its last answer was read

	mu      sync.Mutex
	encoder *gob.Encoder
	seq     int
	waiting map[int]chan answer
}

// errGone says that a process ended without an answer.
var errGone = errors.New("the process is gone")

// newProcess starts a process over the books at dsn; fault names what is wrong with it, if anything. It ends with the test.
func newProcess(t *testing.T, dsn, fault string) *process {
	t.Helper()
	p := &process{dsn: dsn, fault: fault, next: make(chan struct{})}
	p.start(t, 0)
	t.Cleanup(func() { p.stop(t) })
	return p
}

// start starts the process, which dies by itself after it has posted so many transfers, 0 for never. It returns how long it took until it
// served.
func (p *process) start(t *testing.T, dies int) time.Duration {
	t.Helper()
	begin := time.Now()
	l, err := p.launch(dies)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.alive = l
	close(p.next)
	p.next = make(chan struct{})
	p.mu.Unlock()
	return time.Since(begin)
}

func (p *process) launch(dies int) (*life, error) {
	path, err := childProgram()
	if err != nil {
		return nil, err
	}
	p.lives++
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), childDSN+"="+p.dsn, childFault+"="+p.fault, childLife+"="+strconv.Itoa(p.lives), childDies+"="+strconv.Itoa(dies))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdin = read
	if err := errors.Join(cmd.Start(), read.Close()); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	l := &life{cmd: cmd, in: write, gone: make(chan struct{}), encoder: gob.NewEncoder(write), waiting: make(map[int]chan answer)}
	decoder := gob.NewDecoder(out)
	var opened reply
	if err := decoder.Decode(&opened); err != nil {
		return nil, errors.Join(fmt.Errorf("the process did not serve: %w", err), write.Close(), cmd.Wait())
	}
	go l.read(decoder)
	return l, nil
}

// read hands the answers out until the process ends.
func (l *life) read(decoder *gob.Decoder) {
	defer close(l.gone)
	for {
		var r reply
		if err := decoder.Decode(&r); err != nil {
			return // its end, wherever that is: what was not read whole is no answer
		}
		l.mu.Lock()
		to := l.waiting[r.Seq]
		delete(l.waiting, r.Seq)
		l.mu.Unlock()
		to <- r.Answer
	}
}

// call sends an operation, and returns errGone when the process ends without an answer.
func (l *life) call(ctx context.Context, o op) (answer, error) {
	got := make(chan answer, 1)
	l.mu.Lock()
	l.seq++
	l.waiting[l.seq] = got
	err := l.encoder.Encode(request{l.seq, o})
	l.mu.Unlock()
	if err != nil {
		return answer{}, errGone
	}
	select {
	case a := <-got:
		return a, nil
	case <-ctx.Done():
		return answer{}, ctx.Err()
	case <-l.gone:
	}
	select { // it may have been its last word
	case a := <-got:
		return a, nil
	default:
		return answer{}, errGone
	}
}

// ended reports whether the process has ended.
func (l *life) ended() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// end waits for the process's end, which closing its input brings about too.
func (l *life) end() error {
	err := l.in.Close()
	<-l.gone
	return errors.Join(err, l.cmd.Wait())
}

// kill ends the process as kill -9 does.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.alive.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	if err := p.alive.end(); err == nil {
		t.Error("the process ended by itself")
	}
}

// crash kills the process and starts another one. If it is to be after a commit, that one dies by itself between the commit of a transfer and its
// answer, and is followed by a third.
func (p *process) crash(t *testing.T, afterCommit bool) {
	t.Helper()
	p.kill(t)
	if afterCommit {
		p.start(t, 1+rand.IntN(20))
		bounded(t.Context(), p.alive.ended) // unless the clients are through
		p.kill(t)
	}
	p.start(t, 0)
}

// stop ends the process in peace.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.alive.end(); err != nil {
		t.Errorf("the process ended with %v", err)
	}
}

// once sends an operation to the process that is alive, and returns when there is another one if it is gone.
func (p *process) once(ctx context.Context, o op) (answer, error) {
	p.mu.Lock()
	l, next := p.alive, p.next
	p.mu.Unlock()
	a, err := l.call(ctx, o)
	if !errors.Is(err, errGone) {
		return a, err
	}
	select {
	case <-next:
		return answer{Code: unknown, Text: err.Error()}, nil
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// patience bounds how long an operation is sent again: far more than any crash takes to recover from.
const patience = 2 * time.Minute

// call sends an operation until it is known what became of it, as its callers are told to.
func (p *process) call(ctx context.Context, o op) (answer, error) {
	return insist(ctx, func(ctx context.Context) (answer, error) { return p.once(ctx, o) })
}

// insist repeats a call until its answer is final.
func insist(ctx context.Context, call func(context.Context) (answer, error)) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	for attempts := 1; ; attempts++ {
		a, err := call(ctx)
		a.Attempts = attempts
		switch {
		case err != nil:
			return a, err
		case a.Code == failed:
			return a, errors.New(a.Text)
		case a.Code.final():
			return a, nil
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return a, fmt.Errorf("%w: %s", ctx.Err(), a.Text)
		}
	}
}
