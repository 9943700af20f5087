package spire

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestANodeIsPreparedOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "node")
	node, made, err := PrepareNode(t.Context(), dir, "laptop")
	if err != nil || !made {
		t.Fatalf("made: %v, %v", made, err)
	}
	before, err := os.ReadFile(node.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	again, made, err := PrepareNode(t.Context(), dir, "laptop")
	if err != nil || made || again != node {
		t.Errorf("the second time: made: %v, %v, %+v", made, err, again)
	}
	if after, err := os.ReadFile(node.Certificate); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the certificate is another: %v", err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, node.Key: 0o600, node.Certificate: 0o644, node.Authorities: 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v: %v", path, info.Mode().Perm(), want, err)
		}
	}
	pair, err := tls.LoadX509KeyPair(node.Certificate, node.Key)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := pair.Leaf; leaf.Subject.CommonName != "laptop" || leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.IsCA {
		t.Errorf("the certificate is of %q, for %v, a CA's: %v", leaf.Subject.CommonName, leaf.KeyUsage, leaf.IsCA)
	}
}

func TestTheKeyOfANodesAuthorityIsNowhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, _, err := PrepareNode(t.Context(), dir, "laptop"); err != nil {
		t.Fatal(err)
	}
	keys := 0
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		keys += strings.Count(string(text), "PRIVATE KEY-----\n")
	}
	if keys != 2 { // where it begins and where it ends
		t.Errorf("the files have %d marks of private keys, want the two of the agent's one", keys)
	}
}

func TestTheServerTrustsEachNodeOfADirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"laptop", "desk"} {
		if _, _, err := PrepareNode(t.Context(), dir, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"laptop", "desk"} {
		if err := nodeIn(dir, name).check(time.Now()); err != nil {
			t.Error(err)
		}
	}
}

func TestANodeThatManyPrepareAtOnceIsPreparedOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "node")
	var made atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			_, first, err := PrepareNode(t.Context(), dir, "laptop")
			if err != nil {
				t.Error(err)
			}
			if first {
				made.Add(1)
			}
		})
	}
	group.Wait()
	if made.Load() != 1 {
		t.Errorf("it was made %d times", made.Load())
	}
	if text, err := os.ReadFile(filepath.Join(dir, "ca.pem")); err != nil || strings.Count(string(text), "BEGIN CERTIFICATE") != 1 {
		t.Errorf("the authorities are\n%s%v", text, err)
	}
}

// Whoever has stolen a key has its certificate too: once the node has another, the server must not take the old one.
func TestANodeThatIsMadeAnewIsNotTrustedByItsOldCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"laptop", "desk"} {
		if _, _, err := PrepareNode(t.Context(), dir, name); err != nil {
			t.Fatal(err)
		}
	}
	node := nodeIn(dir, "laptop")
	stolen, err := tls.LoadX509KeyPair(node.Certificate, node.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(node.Certificate); err != nil {
		t.Fatal(err)
	}
	if _, made, err := PrepareNode(t.Context(), dir, "laptop"); err != nil || !made {
		t.Fatalf("made: %v, %v", made, err)
	}
	for _, name := range []string{"laptop", "desk"} {
		if err := nodeIn(dir, name).check(time.Now()); err != nil {
			t.Error(err)
		}
	}
	text, err := os.ReadFile(node.Authorities)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	if _, err := stolen.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the server still trusts the certificate of before")
	}
}

func TestAuthoritiesThatCannotBeReadAreNotPassedOver(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no PEM":         "half a fi",
		"no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := PrepareNode(t.Context(), dir, "laptop"); err == nil || !strings.Contains(err.Error(), "ca.pem has ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// held takes the lock of a directory, as a process that hangs has it.
func held(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	unlock, err := lock(t.Context(), filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unlock(); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestADirectoryThatSomebodyElseHasIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	dir := held(t)
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if _, _, err := PrepareNode(t.Context(), dir, "laptop"); err == nil || !strings.Contains(err.Error(), "another process has "+dir) {
			t.Errorf("the error is %v", err)
		}
		if waited := time.Since(begin); waited != lockTime {
			t.Errorf("it was waited for %v, want %v", waited, lockTime)
		}
	})
}

func TestTheWaitForADirectoryEndsWhenItIsToldTo(t *testing.T) {
	t.Parallel()
	dir := held(t)
	synctest.Test(t, func(t *testing.T) {
		told := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(told) })
		begin := time.Now()
		if _, _, err := PrepareNode(ctx, dir, "laptop"); !errors.Is(err, told) {
			t.Errorf("the error is %v", err)
		}
		if waited := time.Since(begin); waited != time.Second {
			t.Errorf("it was waited for %v", waited)
		}
	})
}

func TestWhatACrashLeftOfANodeIsMadeAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := nodeIn(dir, "laptop")
	for _, path := range []string{node.Key, node.Authorities} {
		if err := os.WriteFile(path, []byte("half a fi"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(node.Authorities); err != nil {
		t.Fatal(err)
	}
	if _, made, err := PrepareNode(t.Context(), dir, "laptop"); err != nil || !made {
		t.Fatalf("made: %v, %v", made, err)
	}
	if err := node.check(time.Now()); err != nil {
		t.Error(err)
	}
}

func TestANodeThatCannotAttestIsReported(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, node Node) string{
		"without a key": func(t *testing.T, node Node) string {
			t.Helper()
			if err := os.Remove(node.Key); err != nil {
				t.Fatal(err)
			}
			return "remove it to have another made"
		},
		"with another's certificate": func(t *testing.T, node Node) string {
			t.Helper()
			other, _, err := PrepareNode(t.Context(), filepath.Dir(node.Key), "desk")
			if err != nil {
				t.Fatal(err)
			}
			for from, to := range map[string]string{other.Key: node.Key, other.Certificate: node.Certificate} {
				if err := os.Rename(from, to); err != nil {
					t.Fatal(err)
				}
			}
			return `of node "desk"`
		},
		"with another authority": func(t *testing.T, node Node) string {
			t.Helper()
			other, _, err := PrepareNode(t.Context(), t.TempDir(), "laptop")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(other.Authorities, node.Authorities); err != nil {
				t.Fatal(err)
			}
			return "is not good for the authorities"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			node, _, err := PrepareNode(t.Context(), dir, "laptop")
			if err != nil {
				t.Fatal(err)
			}
			want := spoil(t, node)
			if _, _, err := PrepareNode(t.Context(), dir, "laptop"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %v, want %q in it", err, want)
			}
		})
	}
}

func TestANodesNameIsChecked(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "Laptop", "a.b", "../x", "-a", "a-", "a b", strings.Repeat("a", 64)} {
		if _, _, err := PrepareNode(t.Context(), t.TempDir(), name); err == nil || !strings.Contains(err.Error(), "--node") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
