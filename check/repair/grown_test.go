package repair

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// A refcount table that is said to reach far past the end of the file does not become
// one because new bitmaps made the file longer: what stands there is guest data.
func TestNoTableByGrowing(t *testing.T) {
	c, ok := corpus.Lookup("bitmap-table/misaligned-clusters-1024")
	require.True(t, ok)
	img, err := c.Build()
	require.NoError(t, err)
	raw := make([]byte, img.Size())
	_, err = img.ReadAt(raw, 0)
	require.NoError(t, err)
	misalign := func(e uint64) {
		at := bytes.Index(raw, binary.BigEndian.AppendUint64(nil, e))
		require.Positive(t, at)
		img.WriteAt(binary.BigEndian.AppendUint64(nil, e+0x200), int64(at))
	}
	misalign(0x8000000000001800) // an L2 entry, so that nothing owns the data
	img.WriteAt([]byte{0, 0, 0x10, 1}, qcow2.FieldRefcountTableClusters)
	opts := Options{BitmapPolicy: PolicyAllDirty, OpenSibling: c.Options(img).OpenSibling}
	plan, err := Make(context.Background(), img, img.Size(), opts)
	if err != nil {
		assert.ErrorIs(t, err, errGrown)
		return
	}
	for e := range plan.Edits.All() {
		assert.False(t, e.Offset >= 0x1800 && e.Offset < 0x2000, "guest data at %v is changed: %s", e.Offset, e.Reason)
	}
}
