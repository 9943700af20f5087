package attest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// maxExecutable bounds what is read for a stranger.
	maxExecutable = 1 << 30
	// maxSums bounds the cache, maxHashing how many files are read at once.
	maxSums    = 256
	maxHashing = 2
	// settled is how long a file must have been left alone before its sum is remembered: a change within the resolution of the
	// file system's clock would not show in its times.
	settled = 2 * time.Second
)

// fileID is everything of a file that changes when its content does.
type fileID struct {
	device, inode uint64
	size          int64
	modified      int64
	changed       int64
}

// sums computes SHA-256 sums of executables, and remembers them.
type sums struct {
	hashing chan struct{}

	mu    sync.Mutex
	known map[fileID]string
}

func newSums() *sums {
	return &sums{hashing: make(chan struct{}, maxHashing), known: make(map[fileID]string)}
}

// of returns the sum of an open file in lower-case hexadecimal.
func (s *sums) of(ctx context.Context, file *os.File) (string, error) {
	id, err := identify(file)
	if err != nil {
		return "", err
	}
	if sum, ok := s.lookup(id); ok {
		return sum, nil
	}
	select {
	case s.hashing <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-s.hashing }()
	if sum, ok := s.lookup(id); ok { // somebody else was faster
		return sum, nil
	}
	if id.size > maxExecutable {
		return "", fmt.Errorf("its executable has %d bytes; at most %d are read", id.size, maxExecutable)
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, &reading{ctx, io.NewSectionReader(file, 0, maxExecutable)}); err != nil {
		return "", fmt.Errorf("read its executable: %w", err)
	}
	after, err := identify(file)
	if err != nil {
		return "", err
	}
	if after != id {
		return "", errors.New("its executable changed while it was read")
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	if time.Since(time.Unix(0, max(id.changed, id.modified))) > settled {
		s.remember(id, sum)
	}
	return sum, nil
}

// reading is a reader that ends with a context.
type reading struct {
	ctx context.Context //nolint:containedctx // it is that of the call that reads
	io.Reader
}

func (r *reading) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func (s *sums) lookup(id fileID) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum, ok := s.known[id]
	return sum, ok
}

func (s *sums) remember(id fileID, sum string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxSums {
		clear(s.known) // whoever still runs is read again once
	}
	s.known[id] = sum
}
