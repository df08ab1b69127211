package metadump

import (
	"bytes"
	"cmp"
	"slices"
	"unicode/utf8"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// renamer knows where in an image names stand, and what is put in their place.
type renamer struct {
	masks []mask // in the order of the file
	kept  []span // entries with names, and other fields that are no text, merged
	text  []span // where whatever else reads like text goes, merged
}

// mask is what stands in a name's place.
type mask struct {
	at   int64
	name []byte
}

// newRenamer finds the names of an image.
func newRenamer(img *qcow2.Image, ev *check.Evidence, parts []part) *renamer {
	r := &renamer{}
	for _, p := range parts {
		if p.text {
			r.text = append(r.text, p.at)
		}
	}
	r.header(img)
	bitmaps, snapshots := newNamer(), newNamer()
	entries := slices.Clone(ev.Bitmaps)
	all := slices.Clone(ev.Snapshots)
	if l := ev.LostSnapshots; l != nil {
		all = append(all, l.Snapshots...)
	}
	g := img.Geometry
	for _, run := range slices.Concat(ev.Recovered(), ev.ReservedRuns()) {
		entries = append(entries, entriesIn(img, qcow2.Extent{Offset: g.HostOffset(run.First), Length: run.N << g.ClusterBits})...)
	}
	for i := range entries {
		e := &entries[i]
		head := int64(e.EntryOffset) + qcow2.BitmapHeadSize
		r.kept = append(r.kept, span{int64(e.EntryOffset), head})
		r.masks = append(r.masks, mask{head + int64(len(e.ExtraData)), bitmaps.blank(e.Name)})
	}
	for i := range all {
		s := &all[i]
		head := int64(s.EntryOffset) + qcow2.SnapshotHeadSize + int64(len(s.ExtraData))
		r.kept = append(r.kept, span{int64(s.EntryOffset), head})
		if !number(s.ID) {
			r.masks = append(r.masks, mask{head, snapshots.blank(s.ID)})
		} else {
			r.kept = append(r.kept, span{head, head + int64(len(s.ID))})
		}
		r.masks = append(r.masks, mask{head + int64(len(s.ID)), snapshots.blank(s.Name)})
	}
	for _, m := range r.masks {
		r.kept = append(r.kept, span{m.at, m.at + int64(len(m.name))})
	}
	slices.SortFunc(r.masks, func(a, b mask) int { return cmp.Compare(a.at, b.at) })
	r.text, r.kept = merge(r.text), merge(r.kept)
	return r
}

// entriesIn decodes the entries of a bitmap directory that was recognised.
func entriesIn(img *qcow2.Image, x qcow2.Extent) (all []qcow2.BitmapEntry) {
	format := sniff.FormatOf(img)
	b, err := img.ReadExtent(x, qcow2.MaxBitmapDirectorySize)
	for off := uint64(0); err == nil && off < uint64(len(b)); {
		e, short := qcow2.DecodeBitmapEntry(b[off:], x.Offset+qcow2.HostOffset(off))
		if short != nil || !format.BitmapEntry(&e) {
			break
		}
		all = append(all, e)
		off += e.EntrySize()
	}
	return all
}

// header finds the names of files, and what of the first cluster is no text.
func (r *renamer) header(img *qcow2.Image) {
	h := &img.Header
	r.kept = append(r.kept, span{0, int64(max(h.HeaderLength, qcow2.HeaderLengthV2))})
	for i := range img.Extensions {
		e := &img.Extensions[i]
		data := int64(e.DataOffset())
		r.kept = append(r.kept, span{int64(e.Offset), data})
		switch e.Type {
		case qcow2.ExtDataFile:
			r.masks = append(r.masks, mask{data, blankPath(e.Data)})
		case qcow2.ExtBackingFormat, qcow2.ExtFeatureNames, qcow2.ExtBitmaps, qcow2.ExtCrypto:
			r.kept = append(r.kept, span{data, data + int64(len(e.Data))})
		}
	}
	if h.BackingFileOffset != 0 && qcow2.RangeFits(uint64(h.BackingFileOffset), uint64(h.BackingFileSize), uint64(len(img.Head()))) {
		name := img.Head()[h.BackingFileOffset:][:h.BackingFileSize]
		r.masks = append(r.masks, mask{int64(h.BackingFileOffset), blankPath(name)})
	}
}

// rename puts other names into bytes that stand at an offset of the file.
func (r *renamer) rename(b []byte, off int64) {
	at := span{off, off + int64(len(b))}
	for _, t := range r.text {
		if t.to <= at.from || t.from >= at.to {
			continue
		}
		for _, s := range without(span{max(t.from, at.from), min(t.to, at.to)}, asParts(r.kept)) {
			blankText(b[s.from-off : s.to-off])
		}
	}
	for _, m := range r.masks {
		from, to := max(m.at, at.from), min(m.at+int64(len(m.name)), at.to)
		if from < to {
			copy(b[from-off:to-off], m.name[from-m.at:])
		}
	}
}

func asParts(spans []span) []part {
	parts := make([]part, len(spans))
	for i, s := range spans {
		parts[i].at = s
	}
	return parts
}

// textLength is how many printable bytes in a row are taken for text.
const textLength = 4

// blankText replaces what reads like text.
func blankText(b []byte) {
	for i := 0; i < len(b); {
		n := 0
		for i+n < len(b) && b[i+n] >= ' ' && b[i+n] != 0x7f {
			n++
		}
		if n >= textLength {
			copy(b[i:i+n], bytes.Repeat([]byte{'x'}, n))
		}
		i += n + 1
	}
}

// blankPath replaces the name of a file. Where folders end, and by what protocol it is
// reached, stays: QEMU goes by that.
func blankPath(name []byte) []byte {
	out := bytes.Clone(name)
	from := 0
	if i := bytes.IndexByte(name, ':'); i > 0 && !bytes.ContainsRune(name[:i], '/') {
		from = i + 1
	}
	for i := from; i < len(out); i++ {
		if out[i] != '/' && out[i] != 0 {
			out[i] = 'x'
		}
	}
	return out
}

func number(b []byte) bool {
	return len(b) > 0 && !slices.ContainsFunc(b, func(c byte) bool { return c < '0' || c > '9' })
}

// namer gives new names: to the same name always the same, to others of its length
// others, as long as there are any.
type namer struct {
	given map[string][]byte
	count map[int]int // names given, by length
}

func newNamer() *namer { return &namer{make(map[string][]byte), make(map[int]int)} }

// notUTF8 is the index of the first byte of a name that is not UTF-8, or -1.
func notUTF8(name []byte) int {
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRune(name[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// letters are the digits of a new name; it is padded with the first one.
const letters = "xabcdefghijklmnopqrstuvwyz"

func (n *namer) blank(name []byte) []byte {
	if i := bytes.IndexByte(name, 0); i >= 0 { // to QEMU it ends there
		return slices.Concat(n.blank(name[:i]), []byte{0}, n.blank(name[i+1:]))
	}
	if out, ok := n.given[string(name)]; ok {
		return out
	}
	v := n.count[len(name)]
	n.count[len(name)]++
	out := make([]byte, len(name))
	bad := notUTF8(name)
	for i := len(out) - 1; i >= 0; i-- {
		switch {
		case name[i] < ' ' || name[i] == 0x7f: // a check has something to say of those
			out[i] = name[i]
			continue
		case i == bad:
			out[i] = 0xff
			continue
		}
		out[i] = letters[v%len(letters)]
		v /= len(letters)
	}
	n.given[string(name)] = out
	return out
}
