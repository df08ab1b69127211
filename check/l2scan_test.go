package check

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A run ends at the first entry that is not the one before plus a cluster, wherever
// that is and whichever of its bits differs.
func TestAscending(t *testing.T) {
	const step = 1 << 16
	const first = uint64(1<<63 | 7*step)
	for entries := range 14 {
		for wrong := range entries + 1 { // entries: none is
			for bit := range 64 {
				var raw, extended []byte
				for i := range entries {
					e := first + uint64(i)*step
					if i == wrong {
						e ^= 1 << bit
					}
					raw = binary.BigEndian.AppendUint64(raw, e)
					extended = binary.BigEndian.AppendUint64(extended, e)
					extended = binary.BigEndian.AppendUint64(extended, uint64(i)<<32) // zero subclusters
				}
				assert.Equal(t, wrong, ascending(raw, first, step))
				assert.Equal(t, wrong, ascendingExtended(extended, first, step))
			}
			var extended []byte
			for i := range entries {
				bitmap := uint64(0xff)
				if i == wrong {
					bitmap |= 1 << 39 // allocated, and zero
				}
				extended = binary.BigEndian.AppendUint64(extended, first+uint64(i)*step)
				extended = binary.BigEndian.AppendUint64(extended, bitmap)
			}
			assert.Equal(t, wrong, ascendingExtended(extended, first, step))
		}
	}
}
