package verify

import (
	"context"
	"maps"
)

// EmptySchema is what Books makes each time, which takes longer than all else with books as small as a test's.
func EmptySchema(ctx context.Context) (map[string]string, error) { return emptySchema(ctx) }

// BooksWithSchema is Books with a schema that was made before.
func BooksWithSchema(ctx context.Context, dsn string, places int, schema map[string]string) (Report, error) {
	return books(ctx, dsn, places, func(context.Context) (map[string]string, error) { return maps.Clone(schema), nil })
}
