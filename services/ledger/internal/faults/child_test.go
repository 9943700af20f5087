package faults_test

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

// The environment of a process that has the books.
const (
	childDSN   = "LEDGER_FAULTS_DSN"   // where they are; makes this test binary such a process
	childFault = "LEDGER_FAULTS_FAULT" // one of the faults below
	childLife  = "LEDGER_FAULTS_LIFE"  // the how-manieth process over these books it is
	childDies  = "LEDGER_FAULTS_DIES"  // after so many transfers were posted it dies before it answers the next one
)

// request and reply are the frames on the child's standard input and output, as gob has them. A first reply with the number zero says that
// the books are open.
type request struct {
	Seq int
	Op  op
}

type reply struct {
	Seq    int
	Answer answer
}

// openTimeout bounds how long a process tries to open the books, whose database may be starting.
const openTimeout = 60 * time.Second

// playChild serves the books on standard input and output, until the input ends with the process that reads the output.
func playChild(dsn string) int {
	s, err := openPatiently(context.Background(), dsn)
	if err != nil {
		fmt.Fprintln(os.Stderr, "open the books:", err)
		return 1
	}
	b, err := faulty(s, dsn)
	if err != nil {
		fmt.Fprintln(os.Stderr, "put the fault in:", err)
		return 1
	}
	dies, _ := strconv.ParseInt(os.Getenv(childDies), 10, 64) // 0 is never
	c := &server{books: b, dies: dies, out: gob.NewEncoder(os.Stdout)}
	if err := errors.Join(c.serve(os.Stdin), s.Close()); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		return 1
	}
	return 0
}

// openPatiently opens the books as soon as their database is there.
func openPatiently(ctx context.Context, dsn string) (*store.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := store.Open(ctx, dsn)
		if err == nil {
			return s, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// server is the child's side.
type server struct {
	books  books
	dies   int64
	posted atomic.Int64

	mu  sync.Mutex
	out *gob.Encoder
}

func (s *server) serve(in io.Reader) error {
	if err := s.send(reply{}); err != nil {
		return err
	}
	decoder := gob.NewDecoder(in)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		var r request
		if err := decoder.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if r.Op.Kind == limit {
			if err := errors.Join(limitFiles(r.Op.Minor), s.send(reply{r.Seq, answer{Code: done}})); err != nil {
				return err
			}
			continue
		}
		wg.Go(func() {
			a := apply(context.Background(), s.books, r.Op)
			if r.Op.Kind == post && a.Code == done && s.posted.Add(1) == s.dies {
				// The transfer is committed, and nobody will hear of it.
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			if err := s.send(reply{r.Seq, a}); err != nil {
				fmt.Fprintln(os.Stderr, "answer:", err)
			}
		})
	}
}

// limitFiles makes writes beyond a length fail, or none.
func limitFiles(bytes int64) error {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		return err
	}
	if r.Cur = r.Max; bytes > 0 {
		r.Cur = uint64(bytes)
	}
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r)
}

func (s *server) send(r reply) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Encode(r)
}
