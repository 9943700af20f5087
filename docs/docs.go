// Package docs has those documents that programs show.
package docs

import (
	"bytes"
	_ "embed"
)

//go:embed openapi/bank.swagger.json
var openAPI []byte

// OpenAPI returns the description of the bank's REST interface (OpenAPI 2.0), which is made of its contract.
func OpenAPI() []byte { return bytes.Clone(openAPI) }
