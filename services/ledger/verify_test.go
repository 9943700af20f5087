package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database"
	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
	"github.com/countersign-mesh/countersign/services/ledger/internal/ledger"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store"
	"github.com/countersign-mesh/countersign/services/ledger/internal/store/migrations"
	"github.com/countersign-mesh/countersign/services/ledger/internal/verify"
)

// asLedger has the test's binary be the ledger's.
const asLedger = "LEDGER_TEST_BE_THE_LEDGER"

func TestMain(m *testing.M) {
	if os.Getenv(asLedger) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(databasetest.Main{M: m})
}

// ledgerProgram runs the program with these arguments.
func ledgerProgram(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), asLedger+"=1"), &out, &errs
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatal(err)
		}
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// deposit opens books and puts money in them. They stay open until the test ends, as a ledger's that runs.
func deposit(t *testing.T, dsn string) {
	t.Helper()
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	_, err = s.Post(t.Context(), ledger.Transfer{ID: "deposit-1", Postings: []ledger.Posting{
		{Account: "bank-cash", Amount: ledger.Money{Currency: "EUR", Minor: -100}},
		{Account: "acc-aaaaaaaaaaaaaaaaaaaaaaaaaa", Amount: ledger.Money{Currency: "EUR", Minor: 100}},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestVerifyTellsBooksInOrderFromOthers(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, dsn string) {
		deposit(t, dsn)
		code, stdout, stderr := ledgerProgram(t, "verify", "--dsn", dsn)
		if code != 0 || !strings.Contains(stdout, "The books are in order.") || stderr != "" {
			t.Fatalf("exit code %d\n%s\n%s", code, stdout, stderr)
		}

		db, err := database.Open(t.Context(), dsn, migrations.FS)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if _, err := db.ExecContext(t.Context(), "UPDATE balances SET minor_units = 101 WHERE account_id <> 'bank-cash'"); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr = ledgerProgram(t, "verify", "--dsn", dsn)
		for _, want := range []string{"FAULT balance: 1", "account acc-aaaaaaaaaaaaaaaaaaaaaaaaaa in EUR: the balance is 101, and the entries sum to 100", "The books are NOT in order: 1 faults."} {
			if !strings.Contains(stdout, want) {
				t.Errorf("the report does not say %q:\n%s", want, stdout)
			}
		}
		if code != 1 || stderr != "ledger: the books are not in order: 1 faults\n" {
			t.Errorf("exit code %d, %q", code, stderr)
		}

		code, stdout, _ = ledgerProgram(t, "verify", "--json", "--dsn", dsn)
		var report verify.Report
		if err := json.Unmarshal([]byte(stdout), &report); err != nil {
			t.Fatalf("%v: %s", err, stdout)
		}
		if code != 1 || report.Sound || report.Transfers != 1 || len(report.Faults) != 1 || report.Faults[0].Kind != verify.Balance || report.Sums[0].Minor.Sign() != 0 {
			t.Errorf("exit code %d, %+v", code, report)
		}
	})
}

func TestVerifySaysWhatKeepsItFromChecking(t *testing.T) {
	t.Parallel()
	missing := "sqlite:" + t.TempDir() + "/missing.db"
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"a file that is not there":       {[]string{"--dsn", missing}, 1, "no such file"},
		"a server that is not there":     {[]string{"--dsn", "postgres://bank:hunter2@127.0.0.1:1/ledger"}, 1, "open database ledger at 127.0.0.1:1"},
		"a DSN that is none":             {[]string{"--dsn", "ledger.db"}, 2, "sqlite:PATH"},
		"a number of places that is odd": {[]string{"--places=0", "--dsn", missing}, 2, "want a number from 1 to 10000"},
		"a flag that there is not":       {[]string{"--fix"}, 2, "--fix"},
		"an argument too many":           {[]string{"ledger.db"}, 2, "ledger.db"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := ledgerProgram(t, append([]string{"verify"}, tt.args...)...)
			if code != tt.code || stdout != "" || !strings.Contains(stderr, tt.want) || strings.Contains(stderr, "hunter2") {
				t.Errorf("exit code %d, want %d and %q\n%s\n%s", code, tt.code, tt.want, stdout, stderr)
			}
		})
	}
}

func TestVerifyExplainsItself(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := ledgerProgram(t, "verify", "--help")
	for _, want := range []string{"ledger verify", "--dsn", "LEDGER_DSN", "--json", "--places", "exit code is 0"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the help does not say %q:\n%s", want, stdout)
		}
	}
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

// A reader of the report that has gone, such as head, is no verdict on the books.
func TestVerifyFailsWhenTheReportCannotBeWritten(t *testing.T) {
	t.Parallel()
	dsn := databasetest.SQLite(t)
	deposit(t, dsn)
	if err := runVerify(context.WithoutCancel(t.Context()), []string{"--dsn", dsn}, closedWriter{}); err == nil || errors.Is(err, errFaults) {
		t.Errorf("runVerify = %v, want the error of writing", err)
	}
}

type closedWriter struct{}

func (closedWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }
