// Package svidfile keeps an X.509-SVID in files, for programs that know nothing of the SPIFFE Workload API.
//
// A directory holds svid.pem (the chain, leaf first), key.pem (PKCS #8) and bundle.pem (the trust domain's authorities). The
// three belong together, and a certificate beside another one's key is of no use, so they are replaced together: each is a
// symbolic link through .current, which points at a directory with one set of the three; a new set is written whole into a
// directory of its own and takes the place of the old one by a single rename(2) of .current.
//
// So each file is whole at any time, and each reader that resolves .current once, for instance by opening that directory, gets
// three files of one set, whatever is written meanwhile: the set before the current one stays until the next. A reader that
// opens svid.pem and key.pem by their names, one after the other, gets two of one set too unless the rename falls between the
// two; it sees that the key does not match and has to read again. Two files cannot promise more, since the Workload API gives a new
// key with each SVID.
package svidfile

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// The files of a directory.
const (
	SVID   = "svid.pem"
	Key    = "key.pem"
	Bundle = "bundle.pem"
	// Current is the directory of the current set.
	Current = ".current"
)

const setPrefix = ".set-"

// Write puts an SVID and its trust domain's bundle into dir. Directories that it makes are 0700, files 0600; a dir that was there
// before keeps its mode, and the set in it is private all the same. One process at a time may write to a directory; any
// number may read.
func Write(dir string, svid *x509svid.SVID, bundle *x509bundle.Bundle) error {
	chain, key, err := svid.Marshal()
	if err != nil {
		return fmt.Errorf("encode the SVID: %w", err)
	}
	authorities, err := bundle.Marshal()
	if err != nil {
		return fmt.Errorf("encode the bundle: %w", err)
	}
	if block, _ := pem.Decode(authorities); block == nil {
		return fmt.Errorf("the bundle of %s is empty", bundle.TrustDomain())
	}
	err = replace(dir, map[string][]byte{SVID: chain, Key: key, Bundle: authorities})
	if err != nil {
		return fmt.Errorf("write the SVID to %s: %w", dir, err)
	}
	return nil
}

// replace makes files the current set of dir.
func replace(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	set, err := os.MkdirTemp(dir, setPrefix+"*") // mode 0700
	if err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(set, name), data, 0o600); err != nil {
			return errors.Join(err, os.RemoveAll(set))
		}
	}
	previous, err := os.Readlink(filepath.Join(dir, Current))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.RemoveAll(set))
	}
	if err := link(dir, Current, filepath.Base(set)); err != nil {
		return errors.Join(err, os.RemoveAll(set))
	}
	for name := range files {
		if err := link(dir, name, filepath.Join(Current, name)); err != nil {
			return err
		}
	}
	return removeSets(dir, filepath.Base(set), previous)
}

// link makes name in dir a symbolic link to target, in one step whatever was there.
func link(dir, name, target string) error {
	path := filepath.Join(dir, name)
	if now, err := os.Readlink(path); err == nil && now == target {
		return nil
	}
	next := filepath.Join(dir, ".next-"+strings.TrimPrefix(name, "."))
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // left over from a writer that was killed
	}
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// removeSets removes all sets but those to keep.
func removeSets(dir string, keep ...string) error {
	sets, err := filepath.Glob(filepath.Join(dir, setPrefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, set := range sets {
		kept := false
		for _, name := range keep {
			kept = kept || filepath.Base(set) == name
		}
		if !kept {
			errs = append(errs, os.RemoveAll(set))
		}
	}
	return errors.Join(errs...)
}
