//go:build !linux

package attest

import "errors"

// playOS has no parts here.
func playOS(part, _ string) error { return errors.New("no such part: " + part) }
