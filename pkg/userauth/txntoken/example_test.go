package txntoken_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign-mesh/countersign/pkg/userauth/txntoken"
)

// oneKey is the keys of an issuer that has one; a process has them from a jwks.Set.
type oneKey struct{ jose.JSONWebKey }

func (k oneKey) Key(context.Context, string) (jose.JSONWebKey, error) { return k.Public(), nil }

// The authorization server issues a token for what a customer has asked for, and whoever is called for it verifies the token: as mesh.WithUsers in a server, with
// a policy whose rule says `user: transfer` and `when: request.account_id == user.context.payer`.
func Example() {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	key := jose.JSONWebKey{Key: private, KeyID: "key-1", Algorithm: string(jose.ES256), Use: "sig"}
	issuer := txntoken.NewIssuer(func() (jose.JSONWebKey, error) { return key, nil }, "https://login.bank.test", "bank.test", 2*time.Minute)
	raw, err := issuer.Issue(txntoken.Token{
		ID: "txn-00000001", Subject: "alice", Scope: "transfer", Requesters: []string{"spiffe://bank.test/gateway"},
		Context: map[string]string{"payer": "acc-alice", "payee": "acc-bob", "amount": "2500", "currency": "EUR"},
	})
	if err != nil {
		panic(err)
	}

	verifier := txntoken.NewVerifier(oneKey{key}, "bank.test")
	token, err := verifier.Verify(context.Background(), raw)
	if err != nil {
		panic(err)
	}
	fmt.Println(token.Subject, "asked for a", token.Scope, "of", token.Context["amount"], token.Context["currency"], "to", token.Context["payee"])
	// Output: alice asked for a transfer of 2500 EUR to acc-bob
}
