package store_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
)

// crashDatabase is the environment variable that makes this test binary a process that posts until it is killed.
const crashDatabase = "LEDGER_TEST_CRASH_DATABASE"

// postUntilKilled announces each transfer before it posts it and acknowledges it afterwards, on stdout.
func postUntilKilled(path string) {
	s, err := store.Open(context.Background(), "sqlite:"+path)
	if err != nil {
		fmt.Fprintln(os.Stdout, "failed:", err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		id := fmt.Sprintf("crash-%d-%d", os.Getpid(), i)
		fmt.Fprintln(os.Stdout, "begin", id)
		if _, err := s.Post(context.Background(), pay(id, cash, account(1), 1)); err != nil {
			fmt.Fprintln(os.Stdout, "failed:", err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stdout, "done", id)
	}
}

// ATTACKS 61: kill -9 at random: entries sum to zero, nothing acknowledged is lost, nothing is applied twice.
func TestTheBooksSurviveAKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	begun, acknowledged := make(map[string]bool), make(map[string]bool)
	for round := range 6 {
		for _, line := range killAfter(t, path, 3+17*round) {
			if id, ok := strings.CutPrefix(line, "begin "); ok {
				begun[id] = true
			} else if id, ok := strings.CutPrefix(line, "done "); ok {
				acknowledged[id] = true
			} else {
				t.Fatalf("the process wrote %q", line)
			}
		}
		s := openStore(t, "sqlite:"+path)
		sums := mustBalance(t, s)
		if got := balance(t, s, account(1)); got != sums.Transfers || got < int64(len(acknowledged)) || got > int64(len(begun)) {
			t.Fatalf("round %d: balance %d after %d transfers, %d begun and %d acknowledged", round, got, sums.Transfers, len(begun), len(acknowledged))
		}
	}
	// All that were begun again: those that were in the books already have no second effect.
	s := openStore(t, "sqlite:"+path)
	for id := range begun {
		mustPost(t, s, pay(id, cash, account(1), 1))
	}
	if got := balance(t, s, account(1)); got != int64(len(begun)) {
		t.Errorf("balance %d after %d transfers", got, len(begun))
	}
	mustBalance(t, s)
}

// killAfter runs postUntilKilled in a process of its own, kills it after so many lines, and returns all that it wrote.
func killAfter(t *testing.T, path string, lines int) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashDatabase+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []string
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if all = append(all, scan.Text()); len(all) == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	return all
}
