package policyfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An editor takes no lock. What it saves while a change is prepared is the text that the change is made of in the end.
func TestWhatAnEditorSavesMeanwhileIsKept(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(path, text string) error{
		"in place": func(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) },
		"renamed into place": func(path, text string) error {
			return errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "p.yaml")
			if err := write(path, "one\n"); err != nil {
				t.Fatal(err)
			}
			attempts := 0
			_, err := update(t.Context(), path, func(text string) (string, error) {
				if attempts++; attempts <= 2 {
					if err := write(path, fmt.Sprintf("%ssave %d\n", text, attempts)); err != nil {
						t.Fatal(err)
					}
				}
				return text + "ours\n", nil
			})
			got, readErr := os.ReadFile(path)
			if err != nil || readErr != nil || string(got) != "one\nsave 1\nsave 2\nours\n" {
				t.Errorf("after %d attempts the file is %q (%v, %v)", attempts, got, err, readErr)
			}
		})
	}
}

func TestAFileThatNeverRestsIsGivenUp(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	attempts := 0
	_, err := update(ctx, path, func(text string) (string, error) {
		if attempts++; attempts == 3 {
			cancel()
		}
		return text + "ours\n", os.WriteFile(path, []byte(text+"x"), 0o600)
	})
	if !errors.Is(err, context.Canceled) || attempts != 3 || !strings.Contains(err.Error(), "keeps changing") {
		t.Errorf("after %d attempts: %v", attempts, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the file there is more: %v (%v)", entries, err)
	}
}
