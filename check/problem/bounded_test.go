package problem

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// Where a result has more findings than a report lists, rare ones are listed all the
// same, and the counts add up to the totals.
func TestBounded(t *testing.T) {
	t.Parallel()
	var fs []Finding
	add := func(code Code, severity Severity, n int, fixed bool) {
		for range n {
			fs = append(fs, Finding{Code: code, Severity: severity, Count: 2, Fixed: fixed})
		}
	}
	add(L1ReservedBits, Corruption, 100, false)
	add(L1ReservedBits, Corruption, 40, true)
	add(RefcountTooHigh, Leak, 3, false)
	add(BitmapInUse, Note, 90, false)
	fs = append(fs, Finding{Code: L1ReservedBits, Severity: Corruption, Count: 1000, Unlisted: true})
	assert.Equal(t, fs, bounded(fs, 500), "there is room for all")
	for _, most := range []int{1, 3, 10, 30} {
		got := bounded(fs, 5*most)
		rests := 0
		byCode := make(map[Code]int)
		for _, f := range got {
			byCode[f.Code]++
			if f.Unlisted {
				rests++
				assert.NotEmpty(t, f.Text())
				assert.NotEmpty(t, f.Structure)
			}
		}
		assert.LessOrEqual(t, len(got)-rests, 5*most)
		assert.Equal(t, Count(fs), Count(got))
		if most >= 3 {
			assert.Equal(t, 3, byCode[RefcountTooHigh])
		}
		if most == 30 {
			assert.Equal(t, 2, rests, "MAP001 and BMD012")
		}
	}
}
