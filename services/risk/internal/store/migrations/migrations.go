// Package migrations is the schema of risk's database, step by step. A step that was released is never changed; the next change
// is a next step.
package migrations

import "embed"

// FS holds the steps as goose SQL files.
//
//go:embed sqlite postgres
var FS embed.FS
