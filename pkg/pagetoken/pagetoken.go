// Package pagetoken makes the opaque tokens with which a caller asks for the next page of a list.
//
// A token is bound to the list that it was issued for, so that one that was mixed up is an error instead of a page from
// somewhere else. The binding is a checksum and no secret: whoever knows this package can make a token. That is harmless, because a
// token grants nothing; who may read the list is decided on every call, for the list that the call names.
package pagetoken

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// ErrInvalid is returned for a token that was not issued for the list.
var ErrInvalid = errors.New("page token was not issued for this list")

const (
	positionSize = 8
	sumSize      = 8
)

// Encode returns the token for a position in the list that scope names: the method, and what its pages depend on, such as the
// account. It is safe for concurrent use.
func Encode(scope string, position int64) string {
	token := make([]byte, positionSize, positionSize+sumSize)
	_, _ = binary.Encode(token, binary.BigEndian, position) // fails only for a buffer that is too small
	return base64.RawURLEncoding.EncodeToString(append(token, sum(scope, token)...))
}

// Decode returns the position in a token that Encode made for the same scope, and 0 for the empty token of a first page. The
// error is ErrInvalid. It is safe for concurrent use.
func Decode(scope, token string) (int64, error) {
	if token == "" {
		return 0, nil
	}
	// One position has one token: Strict refuses set bits behind the last byte, the length line breaks, which are decoded to nothing.
	if len(token) != base64.RawURLEncoding.EncodedLen(positionSize+sumSize) {
		return 0, ErrInvalid
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) != positionSize+sumSize || !bytes.Equal(raw[positionSize:], sum(scope, raw[:positionSize])) {
		return 0, ErrInvalid
	}
	var position int64
	_, err = binary.Decode(raw, binary.BigEndian, &position)
	return position, err
}

// sum is over a fixed-size position and then the scope, so that no two pairs of them run into each other.
func sum(scope string, position []byte) []byte {
	h := sha256.New()
	h.Write([]byte("countersign page token 1\n"))
	h.Write(position)
	h.Write([]byte(scope))
	return h.Sum(nil)[:sumSize]
}
