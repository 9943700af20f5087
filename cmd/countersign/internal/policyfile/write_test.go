package policyfile_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/policyfile"
	"github.com/countersign-mesh/countersign/pkg/policy"
)

// reader reads a file over and over, until stop is called, and fails the test when one look shows anything but a good policy.
func reader(t *testing.T, path string) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for last := ""; ; {
			select {
			case <-done:
				return
			default:
			}
			data, err := os.ReadFile(path)
			if err == nil && string(data) != last {
				_, err = policy.Parse(path, data)
				last = string(data)
			}
			if err != nil {
				t.Errorf("a reader saw: %v", err)
				return
			}
		}
	})
	return func() {
		close(done)
		reading.Wait()
	}
}

// serials returns which of the serial numbers 1 to n a policy revokes, in the order of the file.
func serials(t *testing.T, path string, n int) map[string]bool {
	t.Helper()
	found := make(map[string]bool)
	text := read(t, path)
	if _, err := policy.Parse(path, []byte(text)); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= n; i++ {
		entry := fmt.Sprintf("- serial: \"%x\"\n", i)
		if count := strings.Count(text, entry); count > 1 {
			t.Errorf("%q stands there %d times", entry, count)
		} else if count == 1 {
			found[entry] = true
		}
	}
	return found
}

func TestManyAtOnceLoseNothing(t *testing.T) {
	t.Parallel()
	path := fileOf(t, rules)
	stop := reader(t, path)
	const each, writers = 8, 6
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				if _, err := policyfile.Revoke(context.Background(), path, bySerial(fmt.Sprintf("%x", 1+w*each+i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	stop()
	if got := len(serials(t, path, each*writers)); got != each*writers {
		t.Errorf("%d of %d revocations are there:\n%s", got, each*writers, read(t, path))
	}
	leftovers(t, path)
}

// ATTACKS 50, from the writer's side: a writer that is killed at any moment leaves a whole file, and nobody locked out.
func TestAKilledWriterLeavesAWholeFile(t *testing.T) {
	t.Parallel()
	path := fileOf(t, rules)
	stop := reader(t, path)
	const kills = 12
	for i := range kills {
		child := exec.CommandContext(t.Context(), os.Args[0], "revoke", path, fmt.Sprint(1+i*1000))
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		// It says when it has begun. How far it comes until it is killed is chance, and another chance each time.
		for range 1 + i%3 {
			if _, err := out.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := child.Wait(); err == nil {
			t.Fatal("the writer ended by itself")
		}
		if _, err := policyfile.Revoke(t.Context(), path, bySerial(fmt.Sprintf("%x", 1_000_000+i))); err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
	}
	stop()
	if got := strings.Count(read(t, path), `- serial: "f42`); got != kills {
		t.Errorf("%d of %d revocations in between are there", got, kills)
	}
}

// writer is the program that the test above kills: it revokes one serial number after another, and says so after each.
func writer(path string, first int) error {
	for i := first; ; i++ {
		if _, err := policyfile.Revoke(context.Background(), path, bySerial(fmt.Sprintf("%x", i))); err != nil {
			return err
		}
		fmt.Print(".")
	}
}

func TestTheNewFileIsDressedAsTheOldOne(t *testing.T) {
	t.Parallel()
	for _, mode := range []os.FileMode{0o600, 0o640, 0o664} {
		path := fileOf(t, rules)
		if err := os.Chmod(path, mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		uid, gid := os.Geteuid(), os.Getegid()
		if uid == 0 { // nobody else can give files away
			uid, gid = 12345, 54321
			if err := os.Chown(path, uid, gid); err != nil {
				t.Fatal(err)
			}
		}
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		revoke(t, path, byID("/risk", ""))
		after, err := os.Stat(path)
		if err != nil || os.SameFile(before, after) || after.Mode() != mode {
			t.Errorf("the file has mode %v, want a new one with %v (%v)", after.Mode(), mode, err)
		}
		if is, ok := after.Sys().(*syscall.Stat_t); !ok || int(is.Uid) != uid || int(is.Gid) != gid {
			t.Errorf("the owner is %d:%d, want %d:%d", is.Uid, is.Gid, uid, gid)
		}
		leftovers(t, path)
	}
}

func TestALinkStaysALink(t *testing.T) {
	t.Parallel()
	target := fileOf(t, rules)
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first.yaml"), filepath.Join(dir, "second.yaml")
	if err := errors.Join(os.Symlink(target, first), os.Symlink("first.yaml", second)); err != nil {
		t.Fatal(err)
	}
	change := revoke(t, second, byID("/risk", ""))
	if change.Entry != "second.yaml:10" {
		t.Errorf("the entry is at %s", change.Entry)
	}
	for link, want := range map[string]string{first: target, second: "first.yaml"} {
		if got, err := os.Readlink(link); err != nil || got != want {
			t.Errorf("%s leads to %q, want %q (%v)", link, got, want, err)
		}
	}
	if !strings.Contains(read(t, target), "- id: /risk") {
		t.Error("the file that the link leads to is as it was")
	}
	leftovers(t, target)
}

func TestAFileThatAnotherChangesIsWaitedFor(t *testing.T) {
	t.Parallel()
	path := fileOf(t, rules)
	other, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := syscall.Flock(int(other.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = policyfile.Revoke(ctx, path, byID("/risk", ""))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another process is changing "+path) || read(t, path) != rules {
		t.Errorf("while it is locked: %v", err)
	}
	revoked := make(chan error, 1)
	go func() {
		_, err := policyfile.Revoke(context.Background(), path, byID("/risk", ""))
		revoked <- err
	}()
	if err := syscall.Flock(int(other.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-revoked; err != nil || !strings.Contains(read(t, path), "- id: /risk") {
		t.Errorf("after it is unlocked: %v", err)
	}
}

// ATTACKS 37, from the writer's side: every service reads the policy, and who may read a file may lock it. The workload that is to be revoked
// must not hold the revocation off.
func TestALockThatIsNeverGivenBackHoldsOffNoRevocation(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]int{"a shared lock": syscall.LOCK_SH, "an exclusive lock": syscall.LOCK_EX} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fileOf(t, rules)
			other, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			if err := syscall.Flock(int(other.Fd()), how); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			change, err := policyfile.Revoke(ctx, path, byID("/risk", ""))
			if err != nil || !change.Added || !change.Unlocked || !strings.Contains(read(t, path), "- id: /risk") {
				t.Fatalf("while it is locked: %+v, %v", change, err)
			}
			leftovers(t, path)
			// Its lock is on the file that was replaced.
			if change := revoke(t, path, byID("/ledger", "")); change.Unlocked {
				t.Error("the new file is locked too")
			}
		})
	}
}

// Six writers who take a third of a second each take two seconds together. None of them may lose patience: two that go on without the lock at the same
// moment lose the change of one.
func TestWritersWhoTakeTurnsAreWaitedForLonger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(dir, "policy.yaml")
		replaced := lockedFile(t, path) // by the first of the others
		revoked := make(chan policyfile.Change, 1)
		go func() {
			defer close(revoked)
			change, err := policyfile.Revoke(context.Background(), path, byID("/risk", ""))
			if err != nil {
				t.Error(err)
			}
			revoked <- change
		}()
		for range 5 {
			<-time.After(400 * time.Millisecond) // by the clock of the bubble
			next := lockedFile(t, path)
			if err := replaced.Close(); err != nil {
				t.Error(err)
			}
			replaced = next
		}
		synctest.Wait()
		select {
		case change := <-revoked:
			t.Errorf("it did not wait: %+v", change)
		default:
		}
		if err := replaced.Close(); err != nil {
			t.Error(err)
		}
		if change := <-revoked; change.Unlocked || !change.Added {
			t.Errorf("after its turn: %+v", change)
		}
	})
}

// lockedFile puts a new file at path, which is locked from its beginning.
func lockedFile(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.OpenFile(path+".next", os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString(rules)
	if err = errors.Join(err, syscall.Flock(int(file.Fd()), syscall.LOCK_EX), os.Rename(file.Name(), path)); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestWhoHasGivenUpChangesNothing(t *testing.T) {
	t.Parallel()
	path := fileOf(t, rules)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := policyfile.Revoke(ctx, path, byID("/risk", "")); !errors.Is(err, context.Canceled) || read(t, path) != rules {
		t.Errorf("Revoke = %v", err)
	}
}

func TestAFileThatCannotBeWrittenStaysAsItIs(t *testing.T) {
	t.Parallel()
	// The name of the new file is longer, too long: root too cannot write it.
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 250)+".yaml")
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := policyfile.Revoke(t.Context(), path, byID("/risk", "")); err == nil || !strings.Contains(err.Error(), "write the policy: ") {
		t.Errorf("Revoke = %v", err)
	}
	if read(t, path) != rules {
		t.Error("the file was changed")
	}
	leftovers(t, path)
	if _, err := policyfile.Revoke(t.Context(), filepath.Join(t.TempDir(), "gone"), byID("/risk", "")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
