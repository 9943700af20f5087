package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

const (
	// keptLines is how many of a program's last lines are kept to show when it dies.
	keptLines = 12
	// maxLine bounds what is held of a line that does not end.
	maxLine = 64 << 10
)

// output takes what a program writes: whole to its log file, line by line to whoever looks on, and the last lines for the
// case that it dies. It is safe for concurrent use.
type output struct {
	file *os.File
	line func(string) // must not block: the program's output waits for it

	mu      sync.Mutex
	partial []byte
	last    []string
}

// newOutput opens the log file; what an earlier run wrote is kept beside it as .old.
func newOutput(path string, line func(string)) (*output, error) {
	if err := os.Rename(path, path+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) { //nolint:gosec // the run directory is the operator's to say
		return nil, fmt.Errorf("put the old log aside: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600) //nolint:gosec // as above
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return &output{file: file, line: line}, nil
}

// Write implements io.Writer. It does not fail: a full disk must not stop a program through its log.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, _ = o.file.Write(p)
	o.partial = append(o.partial, p...)
	for {
		line, rest, found := bytes.Cut(o.partial, []byte{'\n'})
		if !found {
			break
		}
		o.take(line)
		o.partial = rest
	}
	if len(o.partial) > maxLine {
		o.take(o.partial)
		o.partial = nil
	}
	return len(p), nil
}

func (o *output) take(line []byte) {
	text := string(bytes.TrimRight(line, "\r"))
	o.last = append(o.last, text)
	if len(o.last) > keptLines {
		o.last = o.last[1:]
	}
	o.line(text)
}

// close ends the log with the line that was left unfinished, if any.
func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.partial) > 0 {
		o.take(o.partial)
		o.partial = nil
	}
	return o.file.Close()
}

func (o *output) lastLines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := append([]string(nil), o.last...)
	if len(o.partial) > 0 {
		last = append(last, string(o.partial)) // the log is not closed yet
	}
	return last
}
