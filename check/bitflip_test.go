package check_test

import (
	"context"
	"fmt"
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
)

// flipSpec is a disk with data in three places, one of them kept by a snapshot as
// well.
func flipSpec() corpus.Spec {
	return corpus.Spec{Size: 1 << 30, Ops: []corpus.Op{
		corpus.Write{Offset: 0, Length: 2 * mib, Pattern: 0x11, Stamp: true},
		corpus.Snapshot{ID: "1", Name: "one"},
		corpus.Write{Offset: mib, Length: 512 * kib, Pattern: 0x22, Stamp: true},
		corpus.Write{Offset: 600 * mib, Length: mib, Pattern: 0x33, Stamp: true},
		corpus.Discard{Offset: 601 * mib, Length: 64 * kib},
	}}
}

func checkCorpus(t *testing.T, img *corpus.Image) *check.Result {
	t.Helper()
	q, err := img.Open()
	require.NoError(t, err)
	res, err := check.Run(context.Background(), q, check.Options{})
	require.NoError(t, err)
	return res
}

// damaged builds the image anew and damages it.
func damaged(t *testing.T, spec corpus.Spec, damage ...corpus.Damage) *check.Result {
	t.Helper()
	img, err := corpus.Build(spec)
	require.NoError(t, err)
	return damagedCopy(t, img, damage...)
}

// damagedCopy damages a copy of the image.
func damagedCopy(t *testing.T, img *corpus.Image, damage ...corpus.Damage) *check.Result {
	t.Helper()
	img = img.Clone()
	for _, d := range damage {
		_, err := d.Apply(img)
		require.NoError(t, err)
	}
	return checkCorpus(t, img)
}

// assertNothingFreed asserts that no cluster is called a leak, which a repair
// would free: what was lost may own it.
func assertNothingFreed(t *testing.T, res *check.Result) {
	t.Helper()
	for _, f := range res.Findings {
		assert.NotEqual(t, problem.RefcountTooHigh, f.Code, "%s", f.Text())
	}
}

// A single wrong bit in an entry that leads to data is always noticed, and what
// it led to is never called a leak.
func TestBitFlipsInMapping(t *testing.T) {
	spec := flipSpec()
	sound, err := corpus.Build(spec)
	require.NoError(t, err)
	require.Equal(t, check.VerdictClean, checkCorpus(t, sound).Verdict)
	// Bits whose other value is as good as the one that was there.
	legal := map[string]uint64{
		"l2": 1, // the zero flag
		// Below a snapshot COPIED says nothing, and a cluster may well be
		// compressed data of one sector; only its content would tell.
		"snapshot l1": 1 << 63,
		"snapshot l2": 1<<63 | 1<<62 | 1,
	}
	for name, place := range map[string]corpus.Place{
		"l1":                 corpus.L1Entry(0),
		"l1, second":         corpus.L1Entry(1),
		"l2":                 corpus.L2Descriptor(0),
		"l2, last of a run":  corpus.L2Descriptor(601*mib - 64*kib),
		"snapshot l1":        corpus.SnapshotL1Entry("1", 0),
		"snapshot l2":        corpus.SnapshotL2Entry("1", mib),
		"l1 offset":          corpus.HeaderField(qcow2.FieldL1TableOffset),
		"snapshot l1 offset": corpus.SnapshotField("1", qcow2.SnapshotFieldL1TableOffset, 8),
		"snapshots offset":   corpus.HeaderField(qcow2.FieldSnapshotsOffset),
	} {
		for bit := range 64 {
			if testing.Short() && bit%shortStride != 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", name, bit), func(t *testing.T) {
				mask := uint64(1) << bit
				res := damagedCopy(t, sound, corpus.FlipBits(place, mask))
				assertNothingFreed(t, res)
				if legal[name]&mask == 0 && !(name == "l2, last of a run" && mask == 1) {
					assert.NotEqual(t, check.VerdictClean, res.Verdict, "nothing was noticed")
				}
			})
		}
	}
}

// The ways to lose an L2 table after which `qemu-img check -r leaks` frees what
// it mapped.
func TestLostMappingIsNoLeak(t *testing.T) {
	for name, damage := range map[string]corpus.Damage{
		"L1 entry zeroed":         corpus.Set(corpus.L1Entry(0), 0),
		"second L1 entry zeroed":  corpus.Set(corpus.L1Entry(1), 0),
		"L2 table wiped":          corpus.Wipe(corpus.L2Table(0)),
		"second L2 table wiped":   corpus.Wipe(corpus.L2Table(600 * mib)),
		"snapshot's L1 wiped":     corpus.Wipe(corpus.SnapshotL1("1")),
		"snapshot's L2 wiped":     corpus.Wipe(corpus.SnapshotL2Table("1", 0)),
		"active L1 wiped":         corpus.Wipe(corpus.L1Table()),
		"l1_size one less":        corpus.Add(corpus.HeaderField(qcow2.FieldL1Size).At(0, 4), -1),
		"one snapshot less":       corpus.Set(corpus.HeaderField(qcow2.FieldNbSnapshots).At(0, 4), 0),
		"snapshot's L1 size zero": corpus.Set(corpus.SnapshotField("1", qcow2.SnapshotFieldL1Size, 4), 0),
	} {
		t.Run(name, func(t *testing.T) {
			res := damaged(t, flipSpec(), damage)
			assertNothingFreed(t, res)
			assert.NotEqual(t, check.VerdictClean, res.Verdict)
		})
	}
}

// Every single bit of the header but those whose other value is as good.
func TestBitFlipsInHeader(t *testing.T) {
	spec := flipSpec()
	spec.Bitmaps = []corpus.Bitmap{{Name: "b", Auto: true, Dirty: []corpus.Range{{Offset: 0, Length: mib}}}}
	sound, err := corpus.Build(spec)
	require.NoError(t, err)
	for at := range qcow2.HeaderLengthCompression {
		for bit := range 8 {
			if legalHeaderBit(at, bit) || testing.Short() && (8*at+bit)%shortStride != 0 {
				continue
			}
			t.Run(fmt.Sprintf("byte %d bit %d", at, bit), func(t *testing.T) {
				img := sound.Clone()
				_, err := corpus.FlipBits(corpus.Bytes(qcow2.HostOffset(at), 1), 1<<bit).Apply(img)
				require.NoError(t, err)
				if at < 4 {
					_, err := img.Open()
					require.ErrorIs(t, err, qcow2.ErrNotQcow2)
					return
				}
				res := checkCorpus(t, img)
				if at < qcow2.FieldRefcountOrder || at >= qcow2.FieldHeaderLength {
					// Refcounts of another width are all different, but every
					// reference is there.
					assertNothingFreed(t, res)
				}
				assert.NotEqual(t, check.VerdictClean, res.Verdict)
			})
		}
	}
}

// legalHeaderBit tells that the other value of a header bit is as good: a length
// that means nothing without a backing file, encryption with a key that nothing
// else speaks of, an L1 table that is longer than needed, compatible features.
func legalHeaderBit(at, bit int) bool {
	switch {
	case at >= qcow2.FieldBackingFileSize && at < qcow2.FieldBackingFileSize+4,
		at == qcow2.FieldCryptMethod+3 && bit == 0,
		at >= qcow2.FieldCompatibleFeatures && at < qcow2.FieldCompatibleFeatures+8:
		return true
	case at == qcow2.FieldL1Size+2:
		return bit < 5 // its cluster holds 8,192 entries
	case at == qcow2.FieldL1Size+3:
		return bit != 1 // two are needed
	}
	return false
}
