package repair

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	cl  = 64 * kib
)

// flipKinds are the images in which bits are flipped.
var flipKinds = map[string]corpus.Spec{
	"plain": {Size: 1 << 30, Ops: []corpus.Op{
		corpus.Write{Length: 40 * cl, Pattern: 0x11, Stamp: true}, corpus.Write{Offset: 600 * mib, Length: 4 * cl, Pattern: 0x33, Stamp: true}}},
	"snapshot": {Size: 1 << 30, Ops: []corpus.Op{
		corpus.Write{Length: 6 * cl, Pattern: 0x11, Stamp: true}, corpus.Snapshot{ID: "1", Name: "one"},
		corpus.Write{Offset: 2 * cl, Length: 2 * cl, Pattern: 0x22, Stamp: true}}},
	"4 KiB": {Size: 4 * mib, ClusterBits: 12, Ops: []corpus.Op{
		corpus.Write{Length: 64 * kib, Pattern: 0x11, Stamp: true}, corpus.Snapshot{ID: "1", Name: "one"},
		corpus.Write{Offset: 8 * kib, Length: 8 * kib, Pattern: 0x22, Stamp: true}}},
	"compressed": {Size: 1 << 30, Ops: []corpus.Op{corpus.Write{Length: 8 * cl, Pattern: 0x11, Compressed: true}}},
	"extended": {Size: 1 << 30, ExtendedL2: true, Ops: []corpus.Op{
		corpus.Write{Length: 8 * cl, Pattern: 0x11, Stamp: true}, corpus.Zero{Offset: cl, Length: 4 * kib}}},
	"wide refcounts": {Size: 1 << 30, RefcountBits: 64, Ops: []corpus.Op{
		corpus.Write{Length: 6 * cl, Pattern: 0x11, Stamp: true}, corpus.Snapshot{ID: "1", Name: "one"}}},
	"bitmaps": {Size: 1 << 30, Ops: []corpus.Op{corpus.Write{Length: 4 * cl, Pattern: 0x11, Stamp: true}},
		Bitmaps: []corpus.Bitmap{{Name: "b0", Auto: true, Dirty: []corpus.Range{{Offset: 0, Length: 5 * mib}, {Offset: 700 * mib, Length: 5 * cl}}}}},
}

// flipped builds an image of a kind and turns a bit of a place, counted from its lowest
// one. It gives the bytes before and after.
func flipped(t *testing.T, kind string, p corpus.Place, bit int) (sound, bad []byte) {
	t.Helper()
	img, err := corpus.Build(flipKinds[kind])
	require.NoError(t, err)
	x, err := img.Find(p)
	require.NoError(t, err)
	sound = make([]byte, img.Size())
	_, err = img.ReadAt(sound, 0)
	require.NoError(t, err)
	bad = bytes.Clone(sound)
	bad[uint64(x.Offset)+x.Length-1-uint64(bit/8)] ^= 1 << (bit % 8)
	return sound, bad
}

// mended gives the image as a plan leaves it.
func mended(t *testing.T, bad []byte, opts Options) (*Plan, []byte) {
	t.Helper()
	r := bytes.NewReader(bad)
	p, err := Make(t.Context(), r, int64(len(bad)), opts)
	require.NoError(t, err)
	o := after(t, r, p)
	now := make([]byte, o.size)
	require.NoError(t, o.read(now, 0))
	return p, now
}

// TestFlippedBitIsTurnedBack: where one bit, and no other, makes everything agree, the
// repaired file is the one before the flip.
func TestFlippedBitIsTurnedBack(t *testing.T) {
	t.Parallel()
	field := corpus.HeaderField
	for _, tt := range []struct {
		kind string
		at   corpus.Place
		bits []int
	}{
		{"plain", field(qcow2.FieldClusterBits), []int{0, 1, 3, 20}},
		{"bitmaps", field(qcow2.FieldVersion), []int{0}},
		{"plain", field(qcow2.FieldL1TableOffset), []int{3, 16, 18, 40}},
		{"plain", field(qcow2.FieldRefcountTableOffset), []int{3, 16, 17, 50}},
		{"plain", field(qcow2.FieldRefcountTableClusters), []int{1, 4, 12}},
		{"plain", field(qcow2.FieldHeaderLength), []int{0, 3, 31}},
		{"plain", field(qcow2.FieldRefcountOrder), []int{0, 2, 9}},
		{"plain", field(qcow2.FieldCryptMethod), []int{1, 9}},
		{"plain", field(qcow2.FieldIncompatibleFeatures), []int{2, 3, 4}},
		{"plain", corpus.L1Entry(0), []int{3, 9, 16, 18, 30, 56, 63}},
		{"plain", corpus.L2Entry(20 * cl), []int{1, 9, 15, 20, 21, 24, 40, 57, 62, 63}},
		{"plain", corpus.RefcountTableEntry(0), []int{0, 9, 16, 20, 40}},
		{"plain", corpus.RefcountOf(corpus.Data(0)), []int{0, 1, 15}},
		{"snapshot", field(qcow2.FieldSize), []int{31, 33, 45}},
		{"snapshot", field(qcow2.FieldNbSnapshots), []int{0, 3, 30}},
		{"snapshot", field(qcow2.FieldSnapshotsOffset), []int{4, 16, 20, 40}},
		{"snapshot", field(qcow2.FieldL1Size), []int{1, 14}},
		{"snapshot", corpus.SnapshotField("1", 0, 8), []int{9, 16, 40}},
		{"snapshot", corpus.SnapshotField("1", qcow2.SnapshotFieldL1Size, 4), []int{1, 14, 20}},
		{"snapshot", corpus.SnapshotField("1", qcow2.SnapshotFieldExtraDataSize, 4), []int{4, 12}},
		{"snapshot", corpus.SnapshotL1Entry("1", 0), []int{16, 40}},
		{"snapshot", corpus.SnapshotL1Entry("1", 1), []int{63}}, // of no table
		{"4 KiB", corpus.L1Entry(0), []int{12, 13, 30}},
		{"4 KiB", corpus.L2Entry(0), []int{9, 24, 62}},
		{"compressed", corpus.L2Entry(cl), []int{62, 63, 40}},
		{"extended", field(qcow2.FieldIncompatibleFeatures), []int{4}},
		{"extended", corpus.L2Bitmap(0), []int{32, 40, 63}}, // zero, over data
		{"wide refcounts", field(qcow2.FieldL1TableOffset), []int{16, 17, 18}},
		{"bitmaps", field(qcow2.FieldSize), []int{40}},                                   // the table of the bitmap contradicts, too
		{"bitmaps", corpus.ExtensionData(qcow2.ExtBitmaps, 16, 8), []int{3, 16, 19, 40}}, // the directory's offset
		{"bitmaps", corpus.ExtensionData(qcow2.ExtBitmaps, 0, 4), []int{0, 4}},
		{"bitmaps", corpus.BitmapField("b0", qcow2.BitmapFieldTableOffset, 8), []int{9, 17, 33}},
		{"bitmaps", corpus.BitmapField("b0", qcow2.BitmapFieldTableSize, 4), []int{1, 20}},
		{"bitmaps", corpus.BitmapField("b0", qcow2.BitmapFieldGranularityBits, 1), []int{0, 5, 7}},
		{"bitmaps", corpus.BitmapTableEntry("b0", 0), []int{0, 3, 9, 30, 57}},
	} {
		for _, bit := range tt.bits {
			t.Run(fmt.Sprintf("%s/%s/%d", tt.kind, tt.at, bit), func(t *testing.T) {
				t.Parallel()
				sound, bad := flipped(t, tt.kind, tt.at, bit)
				p, now := mended(t, bad, Options{})
				assert.Equal(t, check.VerdictClean, p.After.Verdict)
				assert.True(t, bytes.Equal(sound, now), "the file is not the one before the flip")
			})
		}
	}
}

// TestFlippedBitSaysSo: the edit tells the place, and that it was one bit.
func TestFlippedBitSaysSo(t *testing.T) {
	t.Parallel()
	_, bad := flipped(t, "plain", corpus.L1Entry(0), 18)
	p, _ := mended(t, bad, Options{})
	require.Equal(t, 1, p.Edits.Len())
	for e := range p.Edits.All() {
		assert.True(t, strings.HasPrefix(e.Reason, "one flipped bit at 0x3000"), e.Reason)
		assert.Contains(t, e.Codes, problem.OrphanL2Table)
		assert.Len(t, e.New, 1)
	}
}

// TestAmbiguousFlipIsLeft: where several bits make everything agree, what tells so stays as
// it is, and the image is not called sound; and whoever knows the bit can still turn it.
func TestAmbiguousFlipIsLeft(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind string
		at   corpus.Place
		bit  int
	}{
		{"plain", corpus.L2Entry(5 * cl), 16}, // two neighbours name one cluster
		{"plain", corpus.L2Entry(6 * cl), 17},
		{"extended", corpus.L2Entry(5 * cl), 64 + 16},
		{"plain", corpus.HeaderField(qcow2.FieldSize), 32}, // or l1_size is wrong
	} {
		t.Run(fmt.Sprintf("%s/%s/%d", tt.kind, tt.at, tt.bit), func(t *testing.T) {
			t.Parallel()
			_, bad := flipped(t, tt.kind, tt.at, tt.bit)
			p, now := mended(t, bad, Options{})
			assert.Equal(t, check.VerdictCorrupt, p.After.Verdict)
			assert.True(t, bytes.Equal(bad, now), "something was written")
		})
	}
}

// TestSizeIsNotTurnedToNothing: a disk is not made smaller because a smaller one would not
// crash QEMU.
func TestSizeIsNotTurnedToNothing(t *testing.T) {
	t.Parallel()
	for _, c := range corpus.Cases() {
		if !strings.HasPrefix(c.Name, "header/crash") {
			continue
		}
		img, err := c.Build()
		require.NoError(t, err)
		p, err := Make(t.Context(), img, img.Size(), Options{})
		require.NoError(t, err)
		o := after(t, img, p)
		var was, is [8]byte
		_, err = img.ReadAt(was[:], qcow2.FieldSize)
		require.NoError(t, err)
		require.NoError(t, o.read(is[:], qcow2.FieldSize))
		assert.Equal(t, was, is, c.Name)
	}
}

// TestUnknownFeatureIsNotTurnedOff: an image of a later version of the format may have it.
func TestUnknownFeatureIsNotTurnedOff(t *testing.T) {
	t.Parallel()
	for _, bit := range []int{17, 63} {
		_, bad := flipped(t, "plain", corpus.HeaderField(qcow2.FieldIncompatibleFeatures), bit)
		p, now := mended(t, bad, Options{})
		assert.Equal(t, check.VerdictUnsupported, p.After.Verdict)
		assert.True(t, bytes.Equal(bad, now), "something was written")
	}
}

// TestFlippedBitInScope: a repair of something else leaves it.
func TestFlippedBitInScope(t *testing.T) {
	t.Parallel()
	_, bad := flipped(t, "plain", corpus.L1Entry(0), 18)
	for _, scope := range []Scope{ScopeLeaks, ScopeBitmaps, ScopeRefcounts} {
		_, now := mended(t, bad, Options{Scope: scope})
		x, y := bad[0x30000:0x30008], now[0x30000:0x30008]
		assert.Equal(t, x, y, scope)
	}
}
