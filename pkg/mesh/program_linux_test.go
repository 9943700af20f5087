package mesh

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

const smaps = `00400000-01a2b000 r-xp 00000000 fe:00 11    /opt/a program
Size:              22700 kB
Rss:               14000 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01a2b000-02c00000 r--p 0162b000 fe:00 11    /opt/a program
Anonymous:             0 kB
02c00000-02d00000 rw-p 02800000 fe:00 11    /opt/a program
Anonymous:            16 kB
02d00000-02e00000 r-xp 02900000 fe:00 11    /opt/a program
Anonymous:             4 kB
7f0000000000-7f0000010000 r-xp 00000000 fe:00 12    /opt/other
Anonymous:             0 kB
7f0000020000-7f0000030000 r-xp 00000000 00:00 0
Anonymous:             0 kB
7ffd0000-7ffd1000 r-xp 00000000 00:00 0             [vdso]
Anonymous:             0 kB
`

func TestUntouchedCodeIsFound(t *testing.T) {
	t.Parallel()
	got, err := untouched(strings.NewReader(smaps), "/opt/a program")
	if want := (mapping{0x400000, 0x1a2b000}); err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("found %x, error %v; wanted %x alone", got, err, want)
	}
}

// code is what the kernel says of the code of this process, in KiB.
type code struct {
	mapping
	resident, own int
}

func codeHere(t *testing.T) (c code) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	here, within := reflect.ValueOf(releaseProgram).Pointer(), false
	for line := range strings.Lines(string(text)) {
		var m mapping
		if n, _ := fmt.Sscanf(line, "%x-%x ", &m.begin, &m.end); n == 2 {
			if within = m.begin <= here && here < m.end; within {
				c.mapping = m
			}
		}
		if within {
			_, _ = fmt.Sscanf(line, "Rss: %d kB", &c.resident)
			_, _ = fmt.Sscanf(line, "Anonymous: %d kB", &c.own)
		}
	}
	return c
}

// Not parallel: it looks at the code that all tests of the package run.
func TestReleaseProgram(t *testing.T) {
	memory, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	before := codeHere(t)
	// A start that comes through all of the code.
	if _, err := memory.ReadAt(make([]byte, before.end-before.begin), int64(before.begin)); err != nil {
		t.Fatal(err)
	}
	before = codeHere(t)
	if err := releaseProgram(); err != nil {
		t.Fatal(err)
	}
	after := codeHere(t)
	t.Logf("of %d KiB of code, %d are kept", before.resident, after.resident)
	if after.resident >= before.resident/2 {
		t.Errorf("of %d KiB of code, %d are kept", before.resident, after.resident)
	}

	// A breakpoint is written as a debugger does it; with the byte that is there, so that nothing stops at it.
	breakpoint, instruction := int64(reflect.ValueOf(releaseProgram).Pointer()), make([]byte, 1)
	if _, err := memory.ReadAt(instruction, breakpoint); err != nil {
		t.Fatal(err)
	}
	if _, err := memory.WriteAt(instruction, breakpoint); err != nil {
		t.Fatal(err)
	}
	if codeHere(t).own == 0 {
		t.Fatal("what is written into the code is in no page of its own: this cannot be tested so")
	}
	if err := releaseProgram(); err != nil {
		t.Fatal(err)
	}
	if codeHere(t).own == 0 {
		t.Error("a breakpoint is lost")
	}
}
