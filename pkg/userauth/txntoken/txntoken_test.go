package txntoken_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
)

// ATTACKS 60: a token is not logged, whatever prints it.
func TestATokenIsNotPrinted(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	raw := b.issue(t, transfer())
	token, err := b.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		token   txntoken.Token
		Pointer *txntoken.Token
	}
	var printed bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{token, *token, holder{*token, token}, &holder{*token, token}, []*txntoken.Token{token}, []txntoken.Token{*token}} {
			fmt.Fprintf(&printed, verb, value)
		}
	}
	for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&printed, nil)), slog.New(slog.NewJSONHandler(&printed, nil))} {
		log.Info("call", "pointer", token, "value", *token, "holder", holder{*token, token})
	}
	text, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	printed.Write(text)
	printed.WriteString(token.String())
	for part := range strings.SplitSeq(raw, ".") {
		for _, secret := range []string{part, fmt.Sprintf("%x", part)} {
			if strings.Contains(printed.String(), secret) {
				t.Errorf("%s is printed: %s", secret, &printed)
			}
		}
	}
	if !strings.Contains(printed.String(), "txn-1") {
		t.Errorf("the transaction is not printed: %s", &printed)
	}
}

func TestAContextWithoutAToken(t *testing.T) {
	t.Parallel()
	if token, ok := txntoken.FromContext(t.Context()); ok || token.Raw() != "" {
		t.Errorf("it has %v", token)
	}
	if token, ok := txntoken.FromContext(txntoken.NewContext(t.Context(), nil)); ok {
		t.Errorf("it has %v", token)
	}
	if token := transfer(); token.Raw() != "" {
		t.Error("a token that nobody issued is written")
	}
}
