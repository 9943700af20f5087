package supervisor

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
)

func TestDetachReturnsWhenTheMeshIsReadyOrFailed(t *testing.T) {
	t.Parallel()
	t.Run("ready", func(t *testing.T) {
		t.Parallel()
		dir := tempDir(t)
		if err := Detach(t.Context(), dir, []string{roleDetached, dir.String()}); err != nil {
			t.Fatal(err)
		}
		record, err := dir.Running()
		if err != nil || !record.Ready {
			t.Fatalf("the mesh is not ready: %v", err)
		}
		if was, err := Down(t.Context(), dir, 20*time.Second); !was || err != nil {
			t.Errorf("down: %v, %v", was, err)
		}
		nothingLeft(t, dir, record)
	})
	t.Run("failed", func(t *testing.T) {
		t.Parallel()
		dir := tempDir(t)
		err := Detach(t.Context(), dir, []string{roleDetached, dir.String(), "say=disk full", "exit=7"})
		if err == nil || !strings.Contains(err.Error(), "front ended (exit status 7)") || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("the error is %v", err)
		}
		nothingLeft(t, dir, rundir.Record{WorkloadAPI: "unix://" + filepath.Join(dir.String(), "api", "api.sock")})
	})
	t.Run("died without a word", func(t *testing.T) {
		t.Parallel()
		dir := tempDir(t)
		err := Detach(t.Context(), dir, []string{roleDetached, dir.String(), "die"})
		if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "out of luck") {
			t.Errorf("the error is %v", err)
		}
	})
}
