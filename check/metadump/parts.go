package metadump

import (
	"cmp"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// treatment says what becomes of bytes that the check has read.
type treatment uint8

const (
	removed   treatment = iota // replaced by the filler where they are not zero
	asIs                       // copied
	keyHeader                  // an encryption header: copied without what leads to a key
)

// part is a range of the file whose bytes are treated alike. What no part covers is
// removed.
type part struct {
	at   span
	as   treatment
	text bool // what reads like text there is a name
}

// partsOf gives the parts of an image, in the order of the file, none overlapping.
func partsOf(img *qcow2.Image, ev *check.Evidence, read []span) []part {
	var all []part
	add := func(x qcow2.Extent, as treatment, text bool) {
		all = append(all, part{spanOf(x), as, text})
	}
	add(qcow2.Extent{Length: img.Geometry.ClusterSize()}, asIs, true)
	for o := range ev.Metadata() {
		switch s := o.Owner.Structure; {
		case s == problem.StructCryptoHeader:
			add(o.Extent, keyHeader, false)
		case !o.Suspect:
			add(o.Extent, asIs, s == problem.StructSnapshotTable || s == problem.StructBitmapDirectory)
		}
	}
	g := img.Geometry
	for _, r := range slices.Concat(ev.Recovered(), ev.ReservedRuns()) {
		add(qcow2.Extent{Offset: g.HostOffset(r.First), Length: r.N << g.ClusterBits}, asIs, false)
	}
	all = flatten(all)
	if old := oldTables(g, ev, all, read); len(old) > 0 {
		all = flatten(append(all, old...))
	}
	return all
}

// maxOldTables bounds the clusters without an owner that are looked at for being tables
// that others have taken the place of.
const maxOldTables = 1 << 10

// oldTables gives the clusters that the check has read, that no part covers, and that are
// tables which others have taken the place of.
func oldTables(g qcow2.Geometry, ev *check.Evidence, parts []part, read []span) (old []part) {
	covered := make([]part, 0, len(parts))
	for _, p := range parts {
		if k := len(covered) - 1; k >= 0 && covered[k].at.to == p.at.from {
			covered[k].at.to = p.at.to
		} else {
			covered = append(covered, p)
		}
	}
	looked, next, last := 0, 0, int64(-1)
	for _, s := range read {
		for next < len(covered) && covered[next].at.to <= s.from {
			next++
		}
		for _, rest := range without(s, covered[next:min(next+1, len(covered))]) {
			for cl := g.HostCluster(qcow2.HostOffset(rest.from)); int64(g.HostOffset(cl)) < rest.to; cl++ {
				if looked++; looked > maxOldTables {
					return old
				}
				if int64(cl) > last && ev.OldTable(cl) {
					old = append(old, part{spanOf(qcow2.Extent{Offset: g.HostOffset(cl), Length: g.ClusterSize()}), asIs, true})
				}
				last = int64(cl)
			}
		}
	}
	return old
}

func spanOf(x qcow2.Extent) span {
	return span{int64(x.Offset), int64(uint64(x.Offset) + x.Length)}
}

// flatten sorts parts and cuts them where they overlap; a header with keys takes
// precedence.
func flatten(all []part) []part {
	rank := func(p part) int {
		if p.as == keyHeader {
			return 0
		}
		return 1
	}
	slices.SortFunc(all, func(a, b part) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.at.from, b.at.from), cmp.Compare(a.at.to, b.at.to))
	})
	keys := slices.IndexFunc(all, func(p part) bool { return p.as != keyHeader })
	if keys < 0 {
		keys = len(all)
	}
	var out []part
	for _, p := range all[keys:] {
		if k := len(out) - 1; k >= 0 && p.at.from < out[k].at.to {
			out[k].text = out[k].text || p.text
			p.at.from = out[k].at.to
		}
		for _, s := range without(p.at, all[:keys]) {
			out = append(out, part{s, p.as, p.text})
		}
	}
	out = append(out, all[:keys]...)
	slices.SortFunc(out, func(a, b part) int { return cmp.Compare(a.at.from, b.at.from) })
	return out
}

// without gives what is left of a span without others, which are in order.
func without(s span, others []part) (left []span) {
	for i := range others {
		o := others[i].at
		if o.from > s.from && o.from < s.to {
			left = append(left, span{s.from, o.from})
		}
		if o.to > s.from && o.from < s.to {
			s.from = min(o.to, s.to)
		}
	}
	if s.from < s.to {
		left = append(left, s)
	}
	return left
}

// The fillers: the first byte of an entry has bits set that are reserved in every table,
// and the last one makes every offset one that is not aligned. What is encrypted looks
// like chance, and must still not be taken for plain text.
var (
	plainFiller = []byte("?removed")
	mixedFiller = func() []byte {
		b := make([]byte, qcow2.SectorSize)
		for i := range b {
			b[i] = byte(i*167 + i>>8)
			if i%8 == 0 {
				b[i] = plainFiller[0]
			}
		}
		return b
	}()
)

// mixedValues is how many different bytes a sector has at least that looks like chance.
const mixedValues = 97

// fill replaces whatever is not zero, sector by sector, and gives how many bytes that
// were.
func fill(b []byte, off int64) (n uint64) {
	for len(b) > 0 {
		k := min(int64(len(b)), qcow2.SectorSize-off%qcow2.SectorSize)
		if s := b[:k]; !zero(s) {
			filler := plainFiller
			if values(s) >= mixedValues {
				filler = mixedFiller
			}
			for i := range s {
				s[i] = filler[(off+int64(i))%int64(len(filler))]
			}
			n += uint64(k)
		}
		b, off = b[k:], off+k
	}
	return n
}

func values(b []byte) (n int) {
	var seen [256]bool
	for _, c := range b {
		if !seen[c] {
			seen[c] = true
			n++
		}
	}
	return n
}

// Where a LUKS header has what helps to find a key, besides the key slots' content.
var secrets = func() []qcow2.Extent {
	const digest, digestSalt, slotSalt = 112, 132, 8
	all := []qcow2.Extent{{Offset: digest, Length: 20}, {Offset: digestSalt, Length: 32}}
	for i := range qcow2.LUKSKeySlots {
		at := qcow2.LUKSFieldKeySlots + i*qcow2.LUKSKeySlotSize
		all = append(all, qcow2.Extent{Offset: qcow2.HostOffset(at + slotSalt), Length: 32})
	}
	return all
}()

// withoutKeys clears, in bytes that stand so far behind the start of an encryption
// header, whatever leads to a key, and gives how many bytes that were.
func withoutKeys(b []byte, at uint64) (n uint64) {
	wipe := func(from, to uint64) {
		from, to = max(from, at), min(to, at+uint64(len(b)))
		if from < to {
			clear(b[from-at : to-at])
			n += to - from
		}
	}
	for _, s := range secrets {
		wipe(uint64(s.Offset), uint64(s.Offset)+s.Length)
	}
	wipe(qcow2.LUKSHeaderSize, ^uint64(0))
	return n
}
