package fuzz_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// What reads wrongly is told, and what has become worse.
func TestFlipReadings(t *testing.T) {
	var bases = make(map[string]*flipBase)
	for _, k := range flipKinds(false) {
		if k.name == "snapshots" || k.name == "bitmaps" || k.name == "luks" {
			bases[k.name] = newFlipBase(t, k)
		}
	}
	damaged := func(b *flipBase, damage ...corpus.Damage) *reading {
		img := b.img.Clone()
		for _, d := range damage {
			_, err := d.Apply(img)
			require.NoError(t, err)
		}
		res, err := b.check(img.Store)
		require.NoError(t, err)
		return b.read(img.Store, res)
	}

	b := bases["snapshots"]
	lost := damaged(b, corpus.Wipe(corpus.L2Descriptor(0)))
	assert.Equal(t, []string{"the disk reads wrongly in 4096 bytes (0 of them not at all)"}, b.was.differs(lost))
	assert.Equal(t, []string{"the disk: 4096 bytes could be read rightly before the repair"}, b.was.worse(b.was, lost))
	assert.Empty(t, b.was.worse(lost, lost), "it read wrongly before")
	assert.Empty(t, b.was.worse(lost, b.was))
	more := damaged(b, corpus.Wipe(corpus.L2Descriptor(0)), corpus.Wipe(corpus.L2Descriptor(4096)))
	assert.Equal(t, []string{"the disk: 4096 bytes could be read rightly before the repair"}, b.was.worse(lost, more))
	gone := damaged(b, corpus.Set(corpus.HeaderField(qcow2.FieldNbSnapshots), 2))
	assert.Equal(t, []string{"snapshot 3 is gone"}, b.was.differs(gone))
	state := damaged(b, corpus.Wipe(corpus.SnapshotL1("2")))
	assert.Contains(t, b.was.differs(state), "the VM state of snapshot 2 reads wrongly")

	b = bases["luks"]
	assert.NotEmpty(t, b.was.differs(damaged(b, corpus.FlipBits(corpus.CryptoHeader().At(132, 1), 1))), "the key's salt")
	assert.Empty(t, b.was.differs(damaged(b, corpus.FlipBits(corpus.CryptoHeader().At(168, 1), 1))), "the UUID")

	b = bases["bitmaps"]
	flags := corpus.BitmapField("daily", qcow2.BitmapFieldFlags, 4)
	inUse := damaged(b, corpus.SetBits(flags, uint64(qcow2.BitmapInUse)))
	assert.Len(t, b.was.otherBitmaps(inUse), 1)
	assert.Empty(t, b.was.lostBits(inUse), "nobody relies on it")
	assert.Len(t, b.was.worse(b.was, inUse), 1)
	assert.Len(t, b.was.lostBits(damaged(b, corpus.Wipe(corpus.BitmapData("daily", 0)))), 1)
	assert.Len(t, b.was.lostBits(damaged(b, corpus.ClearBits(corpus.BitmapField("left", qcow2.BitmapFieldFlags, 4), uint64(qcow2.BitmapInUse)))), 1)
}

// Of every place that is flipped it is known what it is, and none is flipped twice.
func TestFlipPlaces(t *testing.T) {
	for _, k := range flipKinds(false) {
		img := k.image(t)
		seen := make(map[[2]uint64]bool)
		for _, f := range flipsOf(t, img.Store) {
			key := [2]uint64{f.at, uint64(f.bit)}
			require.False(t, seen[key], "%s: %#x bit %d twice", k.name, f.at, f.bit)
			seen[key] = true
			require.Less(t, f.at, uint64(img.Size()))
		}
		// Whole header, with all that can be damaged by name.
		for at := range uint64(72) {
			require.True(t, seen[[2]uint64{at, 7}], "%s: header byte %d", k.name, at)
		}
		for _, p := range []corpus.Place{corpus.L1Entry(0), corpus.L2Descriptor(0), corpus.RefcountTableEntry(0), corpus.RefcountOf(corpus.Header())} {
			x, err := img.Find(p)
			require.NoError(t, err)
			for i := range x.Length {
				require.True(t, seen[[2]uint64{uint64(x.Offset) + i, 0}], "%s: %v", k.name, p)
			}
		}
	}
}
