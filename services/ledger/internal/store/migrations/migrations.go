// Package migrations is the schema of the ledger's database, step by step. A step that was released is never changed; the next
// change is a next step.
package migrations

import "embed"

// FS holds the steps as goose SQL files, for each kind of database.
//
//go:embed sqlite postgres
var FS embed.FS
