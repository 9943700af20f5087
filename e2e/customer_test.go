package e2e

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/e2e/internal/bank"
)

// client is a customer who has the CLI for an app.
type client struct {
	mesh    *bank.Mesh
	profile string
	secrets []string
}

// run runs countersign bank, which must end with that code and say that.
func (c client) run(t *testing.T, code int, want string, args ...string) string {
	t.Helper()
	out, got := c.mesh.CLI(t, "bank", append([]string{"--profile=" + c.profile}, args...)...)
	if got != code || !strings.Contains(out, want) {
		t.Fatalf("bank %s: exit code %d, want %d and %q:\n%s", args[0], got, code, want, out)
	}
	return strings.TrimSpace(out)
}

// askREST asks for the customer's accounts as README has curl do it: with the files of the profile, and the token that the CLI prints.
func (c client) askREST(t *testing.T) {
	t.Helper()
	token := c.run(t, 0, "eyJ", "token")
	dir := filepath.Join(c.mesh.RunDir, "customers", c.profile, "device")
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "device.pem"), filepath.Join(dir, "device.key"))
	if err != nil {
		t.Fatal(err)
	}
	edge := c.mesh.Edge(t)
	for who, certs := range map[string][]tls.Certificate{"with the device's certificate": {cert}, "without": nil} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: edge.Roots, Certificates: certs}}
		status, text, err := getAccounts(t, transport, edge, token)
		transport.CloseIdleConnections()
		if certs == nil && err == nil || certs != nil && (err != nil || status != http.StatusOK || !strings.Contains(text, `"accountId"`)) {
			t.Errorf("%s: %d, %v: %s", who, status, err, text)
		}
	}
}

func getAccounts(t *testing.T, transport http.RoundTripper, edge bank.Edge, token string) (status int, text string, err error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+edge.REST+"/v1/accounts", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, "", err
	}
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), errors.Join(err, response.Body.Close())
}

// newClient makes somebody a customer, as the operator, and enrols a device.
func newClient(t *testing.T, mesh *bank.Mesh, name string) client {
	t.Helper()
	out, code := mesh.CLI(t, "customer", "add", name)
	found := regexp.MustCompile(`(?m)^OTP secret +(\S+)\npassword +(\S+)$`).FindStringSubmatch(out)
	if code != 0 || found == nil {
		t.Fatalf("customer add: exit code %d:\n%s", code, out)
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte(found[2]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := client{mesh: mesh, profile: name, secrets: []string{"--password-file=" + password, "--otp-secret=" + found[1]}}
	c.run(t, 1, "bank --profile "+name+" enrol", "accounts")
	c.run(t, 0, "is a device of "+name, append([]string{"enrol", "--username=" + name}, c.secrets...)...)
	return c
}

// TestCustomerWithTheCLI goes through what a customer does with countersign bank, from the operator's first look at them to the end of their device.
func TestCustomerWithTheCLI(t *testing.T) {
	mesh := dist.NewHome(t).Up(t)
	alice, bob := newClient(t, mesh, "alice"), newClient(t, mesh, "bob")
	alice.run(t, 1, "nobody is logged in", "accounts")
	alice.run(t, 0, "alice is logged in, by the device and the password.", "login", alice.secrets[0])
	bob.run(t, 0, "and a one-time code", append([]string{"login"}, bob.secrets...)...)
	from, to := alice.run(t, 0, "acc-", "open", "Everyday money"), bob.run(t, 0, "acc-", "open")
	if out, code := mesh.CLI(t, "call", "payments", "DepositCash", "-d",
		`{"requestId": "cash-for-alice", "accountId": "`+from+`", "amount": {"currencyCode": "EUR", "minorUnits": 300000}}`); code != 0 {
		t.Fatalf("no cash for Alice: exit code %d:\n%s", code, out)
	}
	alice.run(t, 0, "25.00 EUR  done", "pay", to, "25.00", "--reference=coffee")
	alice.run(t, 1, "login --otp CODE", "pay", to, "1000")
	alice.run(t, 0, "and a one-time code", append([]string{"login"}, alice.secrets...)...)
	alice.run(t, 0, "1000.00 EUR  done", "pay", to, "1000")
	alice.run(t, 0, "1975.00 EUR", "accounts")
	bob.run(t, 0, "coffee", "statement")
	bob.askREST(t)
	bob.run(t, 1, "NOT_FOUND", "pay", to, "1.00", "--from="+from)
	bob.run(t, 0, "bob is logged out", "logout")
	bob.run(t, 1, "nobody is logged in", "accounts")

	out, code := mesh.CLI(t, "customer", "devices", "alice")
	device := regexp.MustCompile(`dev-[a-z2-7]{26}`).FindString(out)
	if code != 0 || device == "" {
		t.Fatalf("customer devices: exit code %d:\n%s", code, out)
	}
	if out, code := mesh.CLI(t, "customer", "revoke-device", device); code != 0 || !strings.Contains(out, device+" is revoked") {
		t.Fatalf("customer revoke-device: exit code %d:\n%s", code, out)
	}
	alice.run(t, 1, "it was revoked", "login", alice.secrets[0])
}
