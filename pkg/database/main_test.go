package database_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/countersign-mesh/countersign/pkg/database/databasetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(databasetest.Main{M: m}) }
