package faults_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
)

// program is the program that plays the process that has the books: these tests once more, without the race detector, under which the
// store takes ten times as long and which looks at it in the store's own tests. Where there is no Go to compile it, it is this binary.
var program struct {
	once   sync.Once
	folder string
	path   string
	err    error
}

func childProgram() (string, error) {
	program.once.Do(func() {
		program.path, program.err = os.Args[0], nil
		info, ok := debug.ReadBuildInfo()
		if _, err := exec.LookPath("go"); err != nil || !ok || !slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
			return
		}
		if program.folder, program.err = os.MkdirTemp("", "faults-"); program.err != nil {
			return
		}
		program.path = filepath.Join(program.folder, "books.test")
		if out, err := exec.Command("go", "test", "-c", "-o", program.path, ".").CombinedOutput(); err != nil {
			program.err = fmt.Errorf("compile the process that has the books: %w: %s", err, out)
		}
	})
	return program.path, program.err
}

// removeProgram tidies up.
func removeProgram() error {
	if program.folder == "" {
		return nil
	}
	return errors.Join(program.err, os.RemoveAll(program.folder))
}
