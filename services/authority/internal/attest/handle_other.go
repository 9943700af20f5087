//go:build !linux && !darwin

package attest

import (
	"errors"
	"os"
	"runtime"
)

// errSystem is why nobody is attested here.
var errSystem = errors.New("processes can be attested on Linux and macOS only, not on " + runtime.GOOS)

// handle does not exist on other systems.
type handle struct {
	pid         int
	uid         uint32
	exe         *os.File
	path        string
	pathProblem string
}

func openHandle(int) (*handle, error) { return nil, errSystem }

func peerCredentials(int) (pid int, uid uint32, err error) { return 0, 0, errSystem }

func (*handle) check() error { return errSystem }

func (*handle) close() error { return nil }

func identify(*os.File) (fileID, error) { return fileID{}, errSystem }
