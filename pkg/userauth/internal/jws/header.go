package jws

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// header is what is of use in a token's header.
type header struct {
	algorithm jose.SignatureAlgorithm
	typ       string
	keyID     string
}

func parseHeader(part string) (header, error) {
	text, err := decode(part)
	if err != nil {
		return header{}, err
	}
	var members map[string]json.RawMessage
	if err := Decode(text, &members); err != nil {
		return header{}, fmt.Errorf("the header: %w", err)
	}
	for _, name := range refused() {
		if _, ok := members[name]; ok {
			return header{}, fmt.Errorf("the header has %s", name)
		}
	}
	var h header
	for name, to := range map[string]*string{"alg": (*string)(&h.algorithm), "typ": &h.typ, "kid": &h.keyID} {
		if err := json.Unmarshal(members[name], to); err != nil || *to == "" {
			return header{}, fmt.Errorf("the header lacks %s, or it is no text", name)
		}
	}
	if len(h.keyID) > maxKeyID {
		return header{}, fmt.Errorf("kid has over %d bytes", maxKeyID)
	}
	return h, nil
}

// refused are the header parameters that no token here has a use for, and that change what is verified or by what. Others are passed over, as
// RFC 7515 §4 wants of parameters that are not understood.
func refused() []string {
	return []string{
		"crit",                     // nothing critical is understood (RFC 7515 §4.1.11)
		"b64",                      // another way to write the content (RFC 7797)
		"jwk", "jku", "x5u", "x5c", // a key that the sender has chosen (RFC 8725 §3.10)
		"enc", "zip", "epk", // those of a JWE
		"cty", // a token within a token (RFC 7519 §5.2)
	}
}

// Decode reads the JSON object of a header or of a content. It is stricter than encoding/json: a name that stands twice, or text that is not UTF-8, is an
// error, and names match by letter case, so that two readers of one token cannot read it differently (RFC 8725 §3.7, RFC 7519 §4).
//
// Where into holds values of type json.RawMessage or leaves members out, the objects in these are not looked into.
func Decode(text []byte, into any) error {
	if !utf8.Valid(text) {
		return errors.New("it is not UTF-8")
	}
	if len(text) == 0 || text[0] != '{' {
		return errors.New("it is not a JSON object")
	}
	if err := json.Unmarshal(text, into); err != nil {
		return errors.New("it is not JSON of the right form, or a name stands twice in it")
	}
	return nil
}
