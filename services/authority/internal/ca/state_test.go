package ca

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// FuzzDecodeState: no text makes the reader panic, and what it accepts is what it would write.
func FuzzDecodeState(f *testing.F) {
	dir, _ := founded(f)
	good, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, text []byte) {
		checkDecoded(t, text, decodeState)
	})
}

// FuzzDecodeInner is behind the checksum.
func FuzzDecodeInner(f *testing.F) {
	dir, _ := founded(f)
	good, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		f.Fatal(err)
	}
	_, inner, _ := bytes.Cut(good, []byte(`"state":`))
	f.Add(bytes.TrimSuffix(inner, []byte("}\n")))
	f.Fuzz(func(t *testing.T, text []byte) {
		checkDecoded(t, text, decodeInner)
	})
}

func checkDecoded(t *testing.T, text []byte, decode func([]byte, spiffeid.TrustDomain) (rings, error)) {
	t.Helper()
	state, err := decode(text, bankTD)
	if err != nil {
		return
	}
	if _, ok := state.X509.find(phaseActive); !ok {
		t.Error("accepted without an active authority")
	}
	again, err := encodeState(bankTD, state, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeState(again, bankTD); err != nil {
		t.Errorf("what it accepted it does not read back: %v", err)
	}
}
