package repair

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// decide works out what becomes of each bitmap.
func (f *bitmapFixer) decide() {
	policy := f.opts.policy()
	for _, b := range f.bitmaps {
		f.decideContent(b, policy)
		if b.drop == "" && len(b.name) > 0 && policy == PolicyRemove {
			b.drop = "its name is another bitmap's, or none that a bitmap can have"
		}
	}
	f.rename()
	for _, b := range f.bitmaps {
		f.decideEntry(b)
	}
}

// decideContent is what the policy is about: a bitmap whose content cannot be
// trusted, for a fault or because it was in use.
func (f *bitmapFixer) decideContent(b *bitmapFix, policy BitmapPolicy) {
	bad := len(b.bad) > 0
	if !bad && !b.inUse || !bad && policy == PolicyMark {
		return
	}
	switch {
	case policy == PolicyRemove:
		b.drop = "its content cannot be trusted"
	case b.GranularityBits > maxGranularityBits:
		b.drop = "its granularity is lost"
	case b.mended() && len(b.Name) == 0:
		b.drop = "its name is lost"
	}
	if b.drop != "" {
		return
	}
	if f.h.DiskTooLarge(f.g) {
		return // that is what is wrong, and not the bitmaps, which are judged by it
	}
	was := b.GranularityBits
	b.GranularityBits = fitGranularity(f.g, f.h.SectorAlignedSize(), was)
	b.Type = qcow2.BitmapDirtyTracking
	b.Flags &= qcow2.BitmapFlagsKnown
	b.needed = f.g.BitmapTableEntries(qcow2.BitmapBits(f.h.SectorAlignedSize(), uint(b.GranularityBits)))
	if policy == PolicyAllDirty && b.needed > 0 {
		b.Flags &^= qcow2.BitmapInUse
		b.table = tableOnes
		b.what = "make all of it dirty"
	} else {
		// A disk of less than a sector has no bits: QEMU takes no bitmap of it
		// that is not in use.
		if !bad && b.needed == 0 {
			return
		}
		b.needed = max(b.needed, 1)
		b.Flags |= qcow2.BitmapInUse
		b.what = "mark it in use"
		switch {
		case b.tableLost:
			b.table = tableZeros
		case b.badEntries || b.needed != uint64(b.TableSize):
			b.table = tableSound
		}
	}
	if b.GranularityBits != was {
		b.what += fmt.Sprintf(", with a granularity of %d bytes", uint64(1)<<b.GranularityBits)
	}
}

// maxGranularityBits is the format's limit: a granularity above it says nothing.
const maxGranularityBits = 63

// fitGranularity gives the granularity, in bits, nearest to that of a bitmap with
// which QEMU takes it for a disk of size bytes. A coarser bitmap that is all dirty, or
// not relied on, says no less. Every disk that can be has one.
func fitGranularity(g qcow2.Geometry, size uint64, granularity uint8) uint8 {
	granularity = min(max(granularity, qcow2.MinBitmapGranularity), qcow2.MaxBitmapGranularity)
	for granularity < qcow2.MaxBitmapGranularity && !g.BitmapFits(size, uint(granularity)) {
		granularity++
	}
	return granularity
}

// rename gives a name of its own to each bitmap that has none or another one's.
// Which of two has the right name nobody can tell; the first one keeps it.
func (f *bitmapFixer) rename() {
	used := make(map[string]bool, len(f.bitmaps))
	next := make(map[string]int) // numbers below have been given to a name
	for _, b := range f.bitmaps {
		if b.drop == "" && len(b.name) == 0 {
			used[cString(b.Name)] = true
		}
	}
	for _, b := range f.bitmaps {
		if b.drop != "" || len(b.name) == 0 {
			continue
		}
		base := cString(b.Name)
		if base == "" {
			base = "unnamed"
		}
		name := cutName(base, "")
		if slices.Contains(b.name, problem.BitmapNameDuplicate) && !used[name] {
			// The one that had the name is removed.
			used[name] = true
			continue
		}
		for used[name] {
			next[base] = max(next[base]+1, 2)
			name = cutName(base, fmt.Sprintf("-%d", next[base]))
		}
		used[name] = true
		if b.what != "" {
			b.what += ", and "
		}
		b.what += fmt.Sprintf("call it %s", check.Excerpt(name))
		b.Name = []byte(name)
	}
}

// cutName makes a name that is not too long.
func cutName(base, suffix string) string {
	if room := qcow2.MaxBitmapName - len(suffix); len(base) > room {
		for room > 0 && !utf8.RuneStart(base[room]) && utf8.ValidString(base) {
			room--
		}
		base = base[:room]
	}
	return base + suffix
}

// decideEntry makes the bytes of a directory entry, but for the place of a new
// table.
func (f *bitmapFixer) decideEntry(b *bitmapFix) {
	switch {
	case b.drop != "":
	case b.what != "" || b.raw == nil:
		b.Flags &= qcow2.BitmapFlagsKnown
		b.out = b.Encode()
	default:
		b.out = slices.Clone(b.raw)
		if slices.Contains(b.tidy, problem.BitmapFlagsReserved) {
			putHalf(b.out[qcow2.BitmapFieldFlags:], uint32(b.Flags&qcow2.BitmapFlagsKnown))
		}
		if slices.Contains(b.tidy, problem.BitmapEntryPadding) {
			clear(b.out[len(b.out)-len(b.Padding):])
		}
	}
}

// settles are the codes of the findings that are settled by what is done.
func (b *bitmapFix) settles() []problem.Code {
	codes := b.faults()
	if b.inUse && (b.drop != "" || b.table == tableOnes) {
		codes = append(codes, problem.BitmapInUse)
	}
	return codes
}
