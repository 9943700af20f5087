package customer

import (
	"fmt"

	moneyv1 "github.com/countersign-mesh/countersign/proto/gen/bank/money/v1"
)

// Amount writes an amount of a currency that has two decimals, as the euro has.
func Amount(m *moneyv1.Money) string {
	minor, sign := m.GetMinorUnits(), ""
	if minor < 0 {
		minor, sign = -minor, "-"
	}
	return fmt.Sprintf("%s%d.%02d %s", sign, minor/100, minor%100, m.GetCurrencyCode())
}
