package store

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// table is rows on their way to the database, as a JSON array of arrays. The zero value is a table without rows.
type table struct {
	text []byte
	rows int
}

// add adds a row. A value is a string, an int64, or nil.
func (t *table) add(values ...any) {
	if t.rows++; t.rows > 1 {
		t.text = append(t.text, ',')
	}
	for i, v := range values {
		separator := byte(',')
		if i == 0 {
			separator = '['
		}
		t.text = append(t.text, separator)
		switch v := v.(type) {
		case nil:
			t.text = append(t.text, "null"...)
		case int64:
			t.text = strconv.AppendInt(t.text, v, 10)
		case string:
			t.text = appendString(t.text, v)
		default:
			panic(fmt.Sprintf("store: a %T in a row", v)) // only if a statement was written wrongly
		}
	}
	t.text = append(t.text, ']')
}

// param is the table as a parameter of a statement.
func (t *table) param() string { return "[" + string(t.text) + "]" }

// appendString adds a JSON string. Nearly all are plain, and need nothing of package json.
func appendString(text []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic(err) // a string has a JSON form always
			}
			return append(text, quoted...)
		}
	}
	text = append(text, '"')
	text = append(text, s...)
	return append(text, '"')
}
