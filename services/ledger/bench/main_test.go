package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A short run has figures in every place, whatever they are.
func TestARunFillsItsTable(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("# Before\n"+tableBegin+"old\n"+tableEnd+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run(t.Context(), []string{"-clients", "4,1", "-rounds", "1", "-turn", "10ms", "-write", page}, &out, t.Output()); err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^\| (\d+) \| [\d,]+ \| \S+s \| \S+s \| [\d,]+ \| [\d.]+ \| [\d,]+ \| [\d.]+ \| [\d,]+ \| [\d.]+ \|$`).FindAllStringSubmatch(out.String(), -1)
	var clients []string
	for _, line := range lines {
		clients = append(clients, line[1])
	}
	want := "1 4 1 4"
	if strings.Contains(out.String(), "PostgreSQL was not measured: "+databasetest.ErrMissing.Error()) {
		want = "1 4"
	}
	if got := strings.Join(clients, " "); got != want {
		t.Errorf("rows for %s clients, want %s:\n%s", got, want, &out)
	}
	if strings.Contains(out.String(), "| 0 |") {
		t.Errorf("a figure is zero:\n%s", &out)
	}
	written, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(written), "# Before\n"+tableBegin+"\n"+out.String()+"\n"+tableEnd+"after\n"; got != want {
		t.Errorf("the page reads\n%s", got)
	}
}

func TestTheCommandLineIsChecked(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-clients", "0"}, {"-clients", "many"}, {"-clients", "151"}, {"-rounds", "0"}, {"-turn", "0s"}, {"-fast"}} {
		if err := run(t.Context(), args, t.Output(), t.Output()); err == nil {
			t.Errorf("%v were taken", args)
		}
	}
}

func TestAPageWithoutAPlaceIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("# A page\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replaceTable(page, "x"); err == nil {
		t.Error("it was written to")
	}
	if err := replaceTable(page+".none", "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a page that is not there: %v", err)
	}
}

func TestNumbersAndDurationsAreWrittenToBeRead(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		number(0): "0", number(999): "999", number(1000): "1,000", number(1234567): "1,234,567",
		rounded(1234567 * time.Nanosecond): "1.23ms", rounded(12345 * time.Microsecond): "12.3ms", rounded(123 * time.Nanosecond): "123ns",
		rounded(2500 * time.Millisecond): "2.5s", ratio(1, 0): "–", ratio(3, 2): "1.50",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
