package policyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Install puts a policy file where there is none yet, for every user to read and this one to write, and reports whether it did. One that is there
// stays as it is: it may hold revocations. Several may call it at once; one of them installs its text. A reader sees no file, or all of it.
func Install(path, text string) (installed bool, err error) {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, temporary(path)+"*")
	if err != nil {
		return false, fmt.Errorf("install the policy: %w", err)
	}
	_, err = file.WriteString(text)
	if err == nil {
		err = file.Chmod(0o644) // it is no secret, and services may run as other users
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Link(file.Name(), path) // a rename would take the place of what is there
	}
	installed = err == nil
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err = errors.Join(err, os.Remove(file.Name())); err == nil && installed {
		err = syncDirectory(dir)
	}
	if err != nil {
		return installed, fmt.Errorf("install the policy: %w", err)
	}
	return installed, nil
}
