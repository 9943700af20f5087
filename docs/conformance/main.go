// Command conformance writes docs/spiffe-conformance.md and docs/token-conformance.md: which requirement of some standards is held by which tests.
//
//	go test -json ./pkg/identity | go run ./docs/conformance docs/conformance/spiffe.yaml
//	go test -json ./pkg/userauth | go run ./docs/conformance docs/conformance/tokens.yaml
//
// It reads the requirements from the file and the results of the tests from standard input, and writes the document to standard
// output. A test names the requirements that it shows to be held by attributes of the key that the file gives. It is an error when a
// requirement that falls on this project has no test, or a test that did not pass, and when a test names a requirement that there is
// not.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(args []string, events io.Reader, document io.Writer) error {
	if len(args) != 1 {
		return errors.New("want one argument, the file with the requirements")
	}
	text, err := os.ReadFile(args[0]) //nolint:gosec // whoever runs this names the file
	if err != nil {
		return err
	}
	p, err := parsePage(text)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	tests, err := readTests(events, p.Attribute)
	if err != nil {
		return fmt.Errorf("read results of tests: %w", err)
	}
	if err := assign(p.Standards, tests); err != nil {
		return err
	}
	var out bytes.Buffer
	writeDocument(&out, filepath.Base(args[0]), p)
	_, err = out.WriteTo(document)
	return err
}
