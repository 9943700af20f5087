// Package registration reads the registration file, which says which process gets which identity, and narrows it down to one machine's binaries.
package registration

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"buf.build/go/protoyaml"
	"golang.org/x/sync/errgroup"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/pkg/yamlfile"
	registrationv1 "github.com/countersign-mesh/countersign/proto/gen/mesh/registration/v1"
)

const (
	selectorPath   = "unix:path:"
	selectorSHA256 = "unix:sha256:"
	selectorUID    = "unix:uid:"
)

// Read reads a file of registration entries.
func Read(path string) (*registrationv1.Registration, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--registration: %w", err)
	}
	var r registrationv1.Registration
	if _, err := yamlfile.Unmarshal(path, data, &r); err != nil {
		return nil, fmt.Errorf("--registration: %w", err)
	}
	return &r, nil
}

// Pin narrows every entry down to this user's processes and to the binaries as they are now: paths become absolute, and each
// entry with a path gets the SHA-256 of the file there. bin/… is in the directory of the programs, whatever that is called; other
// relative paths start beside it.
func Pin(r *registrationv1.Registration, bin string, uid int) error {
	sums := make([]string, len(r.GetEntries()))
	group := errgroup.Group{}
	for i, entry := range r.GetEntries() {
		for j, selector := range entry.GetSelectors() {
			path, ok := strings.CutPrefix(selector, selectorPath)
			if !ok {
				continue
			}
			path = absolute(path, bin)
			entry.Selectors[j] = selectorPath + path
			group.Go(func() (err error) {
				sums[i], err = sum(path)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("pin the registration entries to their binaries: %w", err)
	}
	for i, entry := range r.GetEntries() {
		if sums[i] != "" && !has(entry, selectorSHA256) {
			entry.Selectors = append(entry.Selectors, selectorSHA256+sums[i])
		}
		if !has(entry, selectorUID) {
			entry.Selectors = append(entry.Selectors, selectorUID+strconv.Itoa(uid))
		}
	}
	return nil
}

func absolute(path, bin string) string {
	if rest, ok := strings.CutPrefix(path, "bin/"); ok {
		return filepath.Join(bin, rest)
	}
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(bin), path)
}

func has(entry *registrationv1.Entry, kind string) bool {
	for _, selector := range entry.GetSelectors() {
		if strings.HasPrefix(selector, kind) {
			return true
		}
	}
	return false
}

func sum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	if err := errors.Join(err, file.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// Write stores the entries in a file, such as the authority reads.
func Write(path string, r *registrationv1.Registration, origin string) error {
	data, err := protoyaml.MarshalOptions{UseProtoNames: true, Indent: 2}.Marshal(r)
	if err != nil {
		return fmt.Errorf("write the registration entries: %w", err)
	}
	head := fmt.Sprintf("# Written by countersign up from %s.\n# Changes here are lost; make them there.\n", origin)
	if err := rundir.WriteFile(path, append([]byte(head), data...)); err != nil {
		return fmt.Errorf("write the registration entries: %w", err)
	}
	return nil
}
