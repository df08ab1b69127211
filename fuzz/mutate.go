package fuzz

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// mutate chooses a change; ok is false where the one chosen is not possible with
// this image.
func mutate(rnd *rand.Rand, s *corpus.Store) (m Mutation, ok bool) {
	v, ok := look(rnd, s)
	if !ok {
		return m, false
	}
	if !v.img.GeometryOK {
		f, ok := v.headerField()
		if !ok {
			return m, false
		}
		return v.change(f)
	}
	kind := rnd.IntN(100)
	for _, k := range []struct {
		below int
		make  func() (Mutation, bool)
	}{
		{18, v.changing(v.headerField)},
		{24, v.changing(v.extensionField)},
		{48, v.changing(v.entryField)},
		{58, v.changing(v.refcountField)},
		{66, v.changing(v.snapshotField)},
		{78, v.changing(v.bitmapField)},
		{83, v.swapEntries},
		{88, v.copyEntry},
		{91, v.copyCluster},
		{94, v.wipe},
		{96, v.noise},
		{98, v.resize},
		{100, v.copyExtension},
	} {
		if kind < k.below {
			return k.make()
		}
	}
	return m, false
}

// changing makes a mutation of a choice of fields.
func (v *view) changing(choose func() (field, bool)) func() (Mutation, bool) {
	return func() (Mutation, bool) {
		f, ok := choose()
		if !ok {
			return Mutation{}, false
		}
		return v.change(f)
	}
}

// change gives a field another value.
func (v *view) change(f field) (Mutation, bool) {
	old := v.number(f)
	limit := ^uint64(0) >> (64 - 8*f.n)
	to, how := v.value(f, old, limit)
	to &= limit
	if to == old || !v.inside(f) {
		return Mutation{}, false
	}
	word := binary.BigEndian.AppendUint64(nil, to)
	return Mutation{Op: OpWrite, At: f.at, Bytes: word[8-f.n:], Text: fmt.Sprintf("%s: %#x becomes %#x (%s)", f.name, old, to, how)}, true
}

// value chooses the new value of a field.
func (v *view) value(f field, old, limit uint64) (to uint64, how string) {
	cs := uint64(1 << 16)
	if v.img.GeometryOK {
		cs = v.g.ClusterSize()
	}
	width := bits.Len64(limit)
	offset := func(to uint64) uint64 { return old&^f.mask | to&f.mask }
	if f.mask != 0 && v.rnd.IntN(2) == 0 {
		switch v.rnd.IntN(6) {
		case 0:
			return offset(v.rnd.Uint64N(v.size/cs+1) * cs), "some cluster"
		case 1:
			return offset(v.size), "the end of the file"
		case 2:
			return offset((v.size+cs-1)/cs*cs + cs), "past the end of the file"
		case 3:
			return offset(old&f.mask + cs), "the next cluster"
		case 4:
			return old&^f.mask | (old&f.mask+512)&f.mask, "misaligned"
		}
		name, at := v.structure()
		return offset(at), name
	}
	switch v.rnd.IntN(9) {
	case 0, 1, 2:
		bit := v.rnd.IntN(width)
		return old ^ 1<<bit, fmt.Sprintf("bit %d", bit)
	case 3:
		return 0, "zero"
	case 4:
		return limit, "all ones"
	case 5:
		return old + 1, "one more"
	case 6:
		return old - 1, "one less"
	case 7:
		return 1<<v.rnd.IntN(width) - uint64(v.rnd.IntN(2)), "around a power of two"
	}
	return v.rnd.Uint64(), "at random"
}

func (v *view) swapEntries() (Mutation, bool) {
	t, ok := v.anyTable()
	if !ok {
		return Mutation{}, false
	}
	i, a, ok := v.entry(t)
	k, b, ok2 := v.entry(t)
	if !ok || !ok2 || v.number(a) == v.number(b) {
		return Mutation{}, false
	}
	return Mutation{Op: OpSwap, At: a.at, From: b.at, Length: t.step, Text: fmt.Sprintf("entries %d and %d of %s change places", i, k, t.name)}, true
}

// copyEntry makes an entry of a table what one of a table, perhaps another, is.
func (v *view) copyEntry() (Mutation, bool) {
	t, ok := v.anyTable()
	if !ok {
		return Mutation{}, false
	}
	from := t
	if v.rnd.IntN(3) == 0 {
		if from, ok = v.anyTable(); !ok {
			return Mutation{}, false
		}
	}
	_, a, ok := v.entry(t)
	_, b, ok2 := v.entry(from)
	if !ok || !ok2 || v.number(a) == v.number(b) {
		return Mutation{}, false
	}
	return Mutation{Op: OpCopy, At: a.at, From: b.at, Length: 8, Text: fmt.Sprintf("%s becomes a copy of %s", a.name, b.name)}, true
}

// metadataCluster gives the cluster of some structure, and its name.
func (v *view) metadataCluster() (name string, at uint64, ok bool) {
	name, at = v.structure()
	at -= at % v.g.ClusterSize()
	return name, at, at < v.size && at < maxSize
}

func (v *view) copyCluster() (Mutation, bool) {
	to, at, ok := v.metadataCluster()
	from, src, ok2 := v.metadataCluster()
	if !ok || !ok2 || at == src || at == 0 {
		return Mutation{}, false
	}
	return Mutation{Op: OpCopy, At: at, From: src, Length: v.g.ClusterSize(), Text: fmt.Sprintf("the cluster of %s becomes a copy of that of %s", to, from)}, true
}

func (v *view) wipe() (Mutation, bool) {
	name, at, ok := v.metadataCluster()
	if !ok || at == 0 {
		return Mutation{}, false
	}
	n := v.g.ClusterSize()
	if v.rnd.IntN(2) == 0 {
		part := v.rnd.Uint64N(n / qcow2.SectorSize)
		at, n = at+part*qcow2.SectorSize, qcow2.SectorSize
	}
	return Mutation{Op: OpWipe, At: at, Length: n, Text: fmt.Sprintf("%d bytes at %#x, in the cluster of %s, become zeros", n, at, name)}, true
}

func (v *view) noise() (Mutation, bool) {
	name, at, ok := v.metadataCluster()
	if !ok {
		return Mutation{}, false
	}
	at += v.rnd.Uint64N(v.g.ClusterSize()/8) * 8
	if at < 8 || !qcow2.RangeFits(at, 8, v.size) {
		return Mutation{}, false // not the magic
	}
	return Mutation{Op: OpWrite, At: at, Bytes: binary.BigEndian.AppendUint64(nil, v.rnd.Uint64()),
		Text: fmt.Sprintf("8 bytes at %#x, in the cluster of %s, become random", at, name)}, true
}

func (v *view) resize() (Mutation, bool) {
	cs := v.g.ClusterSize()
	var to uint64
	switch v.rnd.IntN(4) {
	case 0:
		to = v.size + v.rnd.Uint64N(16)*cs + v.rnd.Uint64N(cs)
	case 1:
		_, to = v.structure()
		to += v.rnd.Uint64N(cs)
	case 2:
		to = v.size - min(v.size, 1+v.rnd.Uint64N(cs))
	default:
		to = v.rnd.Uint64N(v.size/cs+1) * cs
	}
	if to == v.size || to > maxSize || to < qcow2.HeaderLengthV2 {
		return Mutation{}, false
	}
	return Mutation{Op: OpSize, At: to, Text: fmt.Sprintf("the file of %d bytes becomes one of %d", v.size, to)}, true
}

// copyExtension puts a header extension in the place of the one behind it, or of
// the mark at the end.
func (v *view) copyExtension() (Mutation, bool) {
	if len(v.img.Extensions) == 0 {
		return Mutation{}, false
	}
	i := v.rnd.IntN(len(v.img.Extensions))
	e := &v.img.Extensions[i]
	last := &v.img.Extensions[len(v.img.Extensions)-1]
	at, n := uint64(last.End()), uint64(e.End()-e.Offset)
	if v.rnd.IntN(2) == 0 {
		at = uint64(e.End())
	}
	if !qcow2.RangeFits(at, n, min(v.size, v.g.ClusterSize())) {
		return Mutation{}, false
	}
	return Mutation{Op: OpCopy, At: at, From: uint64(e.Offset), Length: n, Text: fmt.Sprintf("header extension %d (%#x) is copied to %#x", i, uint32(e.Type), at)}, true
}
