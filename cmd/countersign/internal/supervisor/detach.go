package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

// reportFD is the descriptor on which a detached supervisor reports: the first after standard error.
const reportFD = 3

// report is what a detached supervisor says, once.
type report struct {
	Error string `json:"error,omitempty"`
}

// Report is the other end of Detach, for the supervisor in the background. It is not safe for concurrent use.
type Report struct{ file *os.File }

// OpenReport returns the report that Detach waits for. It must be called before any child is started: the descriptor was
// inherited, and a child that inherited it too would keep it open.
func OpenReport() *Report {
	syscall.CloseOnExec(reportFD)
	return &Report{file: os.NewFile(reportFD, "report")}
}

// Send says that the mesh is ready, or why it is not. Only the first call says anything.
func (r *Report) Send(err error) error {
	if r.file == nil {
		return nil
	}
	var message report
	if err != nil {
		message.Error = err.Error()
	}
	failed := json.NewEncoder(r.file).Encode(message)
	failed = errors.Join(failed, r.file.Close())
	r.file = nil
	if failed != nil {
		return fmt.Errorf("report to the foreground: %w", failed)
	}
	return nil
}

// Detach runs this program again with args, as a supervisor in a session of its own, so that it outlives the terminal. It
// returns when the mesh is ready, or with the reason why it is not. When ctx ends first the supervisor is stopped.
func Detach(ctx context.Context, dir rundir.Dir, args []string) error {
	if err := dir.Create(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	// The end of ctx asks it to end, below, and does not kill it: it has programs to stop.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, args...) //nolint:gosec // this very program
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	log, offset, err := openLog(dir)
	if err == nil {
		cmd.Stdout, cmd.Stderr = log, log
		err = errors.Join(cmd.Start(), log.Close())
	}
	if err = errors.Join(err, write.Close()); err != nil {
		return errors.Join(fmt.Errorf("start the supervisor: %w", err), read.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) }) // it has ended: nothing to stop
	data, err := io.ReadAll(read)
	stop()
	if err = errors.Join(err, read.Close()); err != nil {
		return fmt.Errorf("wait for the supervisor: %w", err)
	}
	return outcome(cmd, data, dir, offset)
}

// openLog opens the supervisor's log to append to it: a supervisor that runs already may be writing there. It returns where the
// new part starts.
func openLog(dir rundir.Dir) (*os.File, int64, error) {
	file, err := os.OpenFile(dir.Log("up"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// outcome makes an error of the report. A supervisor that failed is waited for: when this returns nothing of it is left.
func outcome(cmd *exec.Cmd, data []byte, dir rundir.Dir, offset int64) error {
	var message report
	err := json.Unmarshal(data, &message)
	if err == nil && message.Error == "" {
		return cmd.Process.Release()
	}
	ended := cmd.Wait()
	if err == nil {
		return errors.New(message.Error)
	}
	log, err := os.ReadFile(dir.Log("up"))
	if err != nil || int64(len(log)) < offset {
		log, offset = nil, 0 // it is only shown to help
	}
	return fmt.Errorf("the supervisor ended before the mesh was ready (%w):\n%s", ended, strings.TrimSpace(string(log[offset:])))
}
