package check

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// A header that claims most of a sparse file of 8 EiB is not believed: claiming it
// would take memory without end.
func TestCryptoHeaderOfAbsurdLength(t *testing.T) {
	m := newTestImage(t, func(h *qcow2.Header) { h.ClusterBits, h.Size, h.CryptMethod = 9, 1<<20, qcow2.CryptLUKS })
	at := m.alloc(4 << 10)
	ext := m.setExtension(qcow2.ExtCrypto, qcow2.CryptoExtension{Offset: at, Length: 1<<63 - 1<<30}.Encode())
	m.finish()
	m.size = 1<<63 - 1
	m.holing = true
	r := m.inspect(t, Options{})
	require.True(t, r.res.Has(problem.CryptoHeaderMisplaced))
	for _, f := range r.res.Findings {
		if f.Code == problem.CryptoHeaderMisplaced {
			assert.Equal(t, ext+8, f.Extent.Offset)
			assert.EqualValues(t, 8, f.Extent.Length)
		}
	}
	assert.Less(t, r.counts.Memory(), int64(1<<20))
}
