package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

// attempts are more than a process takes from all together at once.
const attempts = 60

// flood tries to enrol as somebody until it has to wait.
func (w *world) flood(t *testing.T, username func(attempt int) string) {
	t.Helper()
	refused, endless := 0, strings.Repeat("x", 2000) // an attempt that is as good as another here, and costs the test nothing
	for i := range attempts {
		a := w.enrolWith(t, map[string]string{"username": username(i), "password": endless, "otp": "000000"})
		if a.status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Fatalf("none of %d attempts is refused", attempts)
	}
}

// Anybody may try to enrol. Whoever does so without end keeps others from enrolling, for as long as they go on, and no device from logging in.
func TestAFloodOfStrangersKeepsNoDeviceOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	phone := w.enrol(t)
	w.flood(t, func(attempt int) string { return fmt.Sprintf("stranger-%d", attempt) })
	w.logIn(t, phone)
}

// An attempt that its own limit refuses costs nothing, and takes nothing from all others.
func TestARefusedAttemptTakesNothingFromOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, databasetest.SQLite(t))
	code := w.otp(t)
	w.flood(t, func(int) string { return "nobody" })
	want(t, "another name", w.enrolWith(t, map[string]string{"otp": code}), http.StatusCreated, "")
}
