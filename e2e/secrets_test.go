package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// signed is what any JWS of this bank begins with: {" in base64url, and more of it. It is long enough not to stand in a key or a certificate by chance.
var signed = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{24,}`)

// TestTokensAreNowhere has everybody log as much as they can while customers enrol, log in, pay, are refused, and log out, payments are resumed after a kill,
// and services come back. Then it looks for tokens, of any kind, passwords and one-time codes' secrets in all that any process has said, and for
// tokens and passwords in each byte of every database: who has the logs or a backup has nobody's money. ATTACKS 60.
func TestTokensAreNowhere(t *testing.T) {
	home := dist.NewHome(t, "gateway")
	lenient(t, home)
	mesh := home.Apart(t)
	for _, service := range bank.Services() {
		mesh.Flags[service] = []string{"--log-level=debug"}
	}
	mesh.StartAll(t)
	said := make(map[string]string) // by processes that are gone
	operator := mesh.Identity(t, "operator")
	crowd := openCrowd(t, mesh, operator, 3, 0)
	alice := crowd.accounts[0].phone
	token, err := alice.Session.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	transaction, err := bank.NewExchange(alice, mesh.Dial(t, mesh.Identity(t, "gateway"), "login")).Token(t.Context(), "accounts.read", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []string{token, transaction} {
		if !signed.MatchString(known) {
			t.Fatal("a token is not found in itself: this test shows nothing")
		}
	}
	payAround(t, mesh, crowd, said)
	for _, door := range doors() { // which are refused
		door.list(t, alice.Edge, alice.TLS(), []string{"Bearer " + bank.ParseJWS(t, token).With(nil, map[string]any{"sub": "bob"}).Unsigned(t)})
		door.list(t, alice.Edge, crowd.accounts[1].phone.TLS(), []string{"Bearer " + token})
		door.list(t, alice.Edge, alice.TLS(), []string{"Bearer " + transaction})
	}
	if err := alice.Session.Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, service := range bank.Services() {
		said[service] += mesh.Process(service).Output()
	}
	for service, text := range said {
		if len(text) == 0 {
			t.Errorf("%s has said nothing, even at debug", service)
		}
		for _, secret := range secrets(crowd) {
			if bytes.Contains([]byte(text), []byte(secret)) {
				t.Errorf("%s has logged a secret of a customer's", service)
			}
		}
		if found := signed.FindString(text); found != "" {
			t.Errorf("%s has logged a token: %.40s…", service, found)
		}
	}
	lookInDatabases(t, mesh)
}

// payAround makes payments, with payments killed in between, and keeps what was said by who was killed.
func payAround(t *testing.T, mesh *bank.Apart, c *crowd, said map[string]string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	wait := c.pay(ctx, t, 4)
	c.waitForSome(t, 20)
	for _, service := range []string{"payments", "gateway", "login"} {
		mesh.Kill(t, service)
		said[service] += mesh.Process(service).Output()
		mesh.Start(t, service)
		c.waitForSome(t, 20)
	}
	stop()
	wait()
}

// secrets are what a customer has and nobody may log.
func secrets(c *crowd) []string {
	var all []string
	for _, a := range c.accounts {
		all = append(all, a.phone.Secrets()...)
	}
	return all
}

// lookInDatabases looks for tokens and passwords in each byte of every file that a service keeps.
func lookInDatabases(t *testing.T, mesh *bank.Apart) {
	t.Helper()
	files, err := filepath.Glob(mesh.Path("data", "*"))
	if err != nil || len(files) < len(bank.Services())-1 { // the gateway keeps nothing
		t.Fatalf("the databases are %v (%v)", files, err)
	}
	total := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		total += len(content)
		if found := signed.Find(content); found != nil {
			t.Errorf("%s has a token in it: %.40s…", filepath.Base(file), found)
		}
		if bytes.Contains(content, []byte("correct horse")) {
			t.Errorf("%s has a password in it", filepath.Base(file))
		}
	}
	t.Logf("%d files of %d bytes have no token in them", len(files), total)
}
