package repair

import (
	"os"
	"testing"
)

// thorough tells to run every case there is, which takes minutes. Otherwise the tests
// take those cases of which each shows something else, and with -short some of them.
var thorough = os.Getenv("QCHECK_THOROUGH") != ""

// stride gives one of two steps for going through cases: every case is taken by a
// thorough run.
func stride(usual, short int) int {
	switch {
	case thorough:
		return 1
	case testing.Short():
		return short
	}
	return usual
}
