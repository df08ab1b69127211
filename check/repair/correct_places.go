package repair

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// placeKind is what kind of bytes may have a flipped bit.
type placeKind uint8

const (
	placeOther placeKind = iota
	placeHeader
	placeL1
	placeL2       // the first word of an entry
	placeL2Bitmap // the second one
	placeBitmaps
	placeRefcounts
)

// reach is the kinds of bytes that entries of a kind are among.
func (k placeKind) reach() reach {
	switch k {
	case placeL1:
		return reachL1Entry
	case placeL2, placeL2Bitmap:
		return reachL2Entry
	case placeBitmaps:
		return reachBitmapTable
	case placeRefcounts:
		return reachRefTableEntry
	}
	return reachAll
}

const (
	// maxPlaces bounds the entries at fault that are looked at: one bit does not make
	// more of them than that, unless it is one of a structure that leads to them.
	maxPlaces = 256
	// maxSpans is up to how many entries every entry of a table is looked at.
	maxSpans = 128
)

// listBits lists every bit that may have flipped.
func (c *corrector) listBits(ctx context.Context) error {
	if !c.pair() && (c.full <= smallMetadata || c.structural()) {
		c.listFixed()
	}
	if !c.img.GeometryOK {
		return nil
	}
	return c.listEntries(ctx)
}

// pair tells that all that is wrong with the references is one cluster with one too many
// and one with one too few, a bit away: no field of a structure does just that.
func (c *corrector) pair() bool {
	im := &c.before
	return im.known && len(im.low) == 1 && len(im.high) == 1 &&
		im.low[0].references == im.low[0].refcount+1 && im.high[0].refcount == im.high[0].references+1 &&
		bits.OnesCount64(uint64(im.low[0].cluster^im.high[0].cluster)) == 1
}

// structural tells whether it may be a structure that leads to many entries that is wrong.
// Where millions of entries agree and a few do not, it is not.
func (c *corrector) structural() bool {
	if !c.img.GeometryOK || !c.before.known || c.before.cut || len(c.before.low)+len(c.before.high) > 1<<12 {
		return true
	}
	return slices.ContainsFunc(c.ev.Findings, func(f problem.Finding) bool {
		if bearable(&f) || f.Severity < problem.Warning {
			return false
		}
		switch f.Structure {
		case problem.StructL2Table, problem.StructDataCluster, problem.StructRefcountBlock, problem.StructBitmapData:
			return f.Code == problem.MetadataOverlap || f.Code == problem.L2TableShared || f.Code == problem.NotAnL2Table
		case problem.StructL1Table, problem.StructBitmapTable:
			return f.Count > 1
		}
		return true
	})
}

// listFixed lists the bits of the header and of all that is found through it alone.
func (c *corrector) listFixed() {
	for i := range headerFields {
		f := &headerFields[i]
		if c.reach&f.reach != 0 && !(f.v3 && c.h.Version == 2) {
			c.flipField(qcow2.HostOffset(f.at), f.length, "header field "+f.name, placeHeader, func(v uint64) bool { return f.worth(c, v) })
		}
	}
	c.listExtensions()
	if !c.img.GeometryOK {
		return
	}
	if c.reach&reachSnapshots != 0 {
		c.listSnapshots()
	}
	if c.reach&reachBitmaps != 0 {
		c.listDirectory()
	}
}

func (c *corrector) listExtensions() {
	const what = "head of a header extension"
	for i := range c.img.Extensions {
		e := &c.img.Extensions[i]
		if c.reach&reachExtensions != 0 {
			c.flipField(e.Offset, 4, what, placeHeader, func(v uint64) bool { return worthType(qcow2.ExtensionType(v)) })
			c.flipField(e.Offset+4, 4, what, placeHeader, func(v uint64) bool { return worthLength(e.Type, v) && v < c.g.ClusterSize() })
		}
		switch e.Type {
		case qcow2.ExtBitmaps:
			if c.reach&reachBitmaps != 0 {
				c.flipBitmapsExtension(e.DataOffset())
			}
		case qcow2.ExtCrypto:
			c.flip(e.DataOffset(), 16, "encryption extension", placeHeader)
		}
	}
}

func (c *corrector) listSnapshots() {
	at := c.h.SnapshotsOffset
	if c.h.NbSnapshots == 0 || !c.g.Aligned(at) {
		return
	}
	for i := range min(len(c.ev.Snapshots), maxPlaces) {
		c.flipSnapshot(c.ev.Snapshots[i].EntryOffset)
		at = c.ev.Snapshots[i].EntryOffset + qcow2.HostOffset(c.ev.Snapshots[i].EntrySize)
	}
	if len(c.ev.Snapshots) < int(min(c.h.NbSnapshots, maxPlaces)) {
		c.flipSnapshot(at) // the one that could not be read
	}
}

func (c *corrector) listDirectory() {
	ext := c.img.Extension(qcow2.ExtBitmaps)
	if ext == nil || ext.Length != qcow2.BitmapsExtensionSize || ext.Overruns() {
		return
	}
	dir := qcow2.DecodeBitmapsExtension(ext.Data)
	at := dir.DirectoryOffset
	for i := range min(len(c.ev.Bitmaps), maxPlaces) {
		b := &c.ev.Bitmaps[i]
		c.flipBitmap(b.EntryOffset, "directory entry of bitmap "+check.Escape(b.Name))
		at = b.EntryOffset + qcow2.HostOffset(b.EntrySize())
	}
	if len(c.ev.Bitmaps) < int(min(dir.NbBitmaps, maxPlaces)) {
		c.flipBitmap(at, "bitmap directory")
	}
}

// flip lists every bit of some bytes.
func (c *corrector) flip(at qcow2.HostOffset, n int, what string, kind placeKind) {
	for i := range n {
		c.flipField(at+qcow2.HostOffset(i), 1, what, kind, nil)
	}
}

// word reads some bytes of the file; nil where they are not there.
func (c *corrector) word(at qcow2.HostOffset, n int) []byte {
	if !qcow2.RangeFits(uint64(at), uint64(n), uint64(c.o.size)) {
		return nil
	}
	raw, err := c.bytes(qcow2.Extent{Offset: at, Length: uint64(n)})
	if err != nil {
		return nil
	}
	return raw
}

// listEntries lists the bits of entries of tables, and of refcounts, that something is
// wrong with.
func (c *corrector) listEntries(ctx context.Context) error {
	high := c.before.lacking()
	low := make(map[qcow2.HostCluster]bool, len(c.before.low))
	for _, d := range c.before.low {
		low[d.cluster] = true
	}
	w := entryBits{corrector: c, high: high, low: low, exact: c.before.known && !c.before.cut}
	var clusters []qcow2.HostCluster
	for _, d := range c.before.low {
		if len(clusters) < maxPlaces {
			clusters = append(clusters, d.cluster)
		}
	}
	for i := range c.ev.Findings {
		if f := &c.ev.Findings[i]; f.Cluster != nil && (f.Code == problem.MetadataOverlap || f.Code == problem.DataShared || f.Code == problem.L2TableShared || f.Code == problem.BitmapOverlap || f.Code == problem.RefcountBlockOverlap) {
			clusters = append(clusters, *f.Cluster)
		}
	}
	slices.Sort(clusters)
	uses, _, err := c.ev.Uses(slices.Compact(clusters))
	if err != nil {
		return err
	}
	for i := range uses { // first, since it is known what kind of entry each is
		w.use(uses[i])
	}
	for i := range c.ev.Findings {
		if f := &c.ev.Findings[i]; !f.Unlisted && !bearable(f) && f.Severity != problem.Note {
			w.finding(f)
		}
	}
	for _, d := range c.ev.Doubts {
		w.use(check.Use{Owner: d.Owner, Ref: d.Owner.Ref})
	}
	if c.full <= smallMetadata && !c.pair() {
		w.tables()
	}
	w.refcounts()
	return ctx.Err()
}

// entryBits lists bits of entries, without those that are soon seen not to be the one.
type entryBits struct {
	*corrector
	high, low map[qcow2.HostCluster]bool // clusters with references missing, and too many
	exact     bool                       // these are all
	places    int
	leads     bool // only bits that lead elsewhere are of interest
}

// use lists the bits of the entry of a table that leads to a cluster. What leads to a table
// is a field, see [corrector.listFixed].
func (w *entryBits) use(u check.Use) {
	var kind placeKind
	switch {
	case u.Ref.Length == 0 || u.Ref.Offset < qcow2.HostOffset(w.g.ClusterSize()):
		return
	case u.Data, u.Owner.Structure == problem.StructDataCluster:
		kind = placeL2
	case u.Owner.Structure == problem.StructL2Table:
		kind = placeL1
	case u.Owner.Structure == problem.StructBitmapData:
		kind = placeBitmaps
	case u.Owner.Structure == problem.StructRefcountBlock:
		kind = placeRefcounts
	default:
		return
	}
	w.extent(u.Ref, "entry for "+u.Owner.String(), kind)
}

// finding lists the bits that a finding is about.
func (w *entryBits) finding(f *problem.Finding) {
	what := string(f.Structure)
	if path := f.Path.String(); path != "" {
		what = path
	}
	x := f.Extent
	switch f.Code.About() {
	case problem.AboutL1Entry:
		w.extent(x, what, placeL1)
	case problem.AboutL2Entry, problem.AboutCluster:
		if w.g.ExtendedL2 {
			first := x.Offset &^ 15
			x.Length, x.Offset = (x.Length+uint64(x.Offset-first)+15)&^15, first
		}
		w.extent(x, what, placeL2)
	case problem.AboutRefcountEntry:
		w.extent(x, what, placeRefcounts)
	case problem.AboutBitmapEntry:
		w.extent(x, what, placeBitmaps)
	case problem.AboutBitmapData:
		if f.Code == problem.BitmapTrailingBits {
			w.tail(f)
		}
	case problem.AboutSnapshot, problem.AboutBitmap, problem.AboutBitmapExtension:
		if w.mild && x.Length <= 64 { // no field that anything depends on
			w.flip(x.Offset, int(x.Length), what, placeOther)
		}
	}
}

// extent lists the bits of entries.
func (w *entryBits) extent(x qcow2.Extent, what string, kind placeKind) {
	if x.Length%8 != 0 || x.Offset%8 != 0 || w.reach&kind.reach() == 0 {
		return
	}
	for at := x.Offset; at < x.Offset+qcow2.HostOffset(x.Length); at += 8 {
		if w.places++; w.places > maxPlaces {
			return
		}
		w.entry(at, what, kind)
	}
}

// entry lists the bits of an entry of 8 bytes with which the clusters that it names are
// such as lack a reference, and those that it does not name any more had one too many.
func (w *entryBits) entry(at qcow2.HostOffset, what string, kind placeKind) {
	raw := w.word(at, 8)
	if raw == nil {
		return
	}
	if kind == placeL2 && w.g.ExtendedL2 && at%16 == 8 {
		kind = placeL2Bitmap
	}
	e := binary.BigEndian.Uint64(raw)
	if !w.explains(at, e, kind) {
		return
	}
	for bit := range 64 {
		v := e ^ 1<<bit
		if !w.plausible(e, v, kind) {
			continue
		}
		i := 7 - bit/8
		w.list = append(w.list, patch{at: at + qcow2.HostOffset(i), old: raw[i : i+1], new: []byte{raw[i] ^ 1<<(bit%8)}, what: what, kind: kind})
	}
}

// plausible tells whether an entry may have been v before a bit made it e, by the
// clusters that the two name.
func (w *entryBits) plausible(e, v uint64, kind placeKind) bool {
	if !w.exact || w.h.HasDataFile() && (kind == placeL2 || kind == placeL2Bitmap) {
		return true
	}
	switch kind {
	case placeL2:
		first, n := w.names(qcow2.L2Entry(v))
		if to := qcow2.L2Entry(v); !to.Compressed() && (to.Reserved(w.h.ZeroFlag()) != 0 || n == 0 && to.Offset() != 0) {
			return false
		}
		was, m := w.names(qcow2.L2Entry(e))
		if n := uint64(len(w.low)); n > m || n > 0 && first == was && w.same(e, v) {
			return false // clusters with a reference too many would be left
		}
		for cl := first; cl < first+qcow2.HostCluster(n); cl++ {
			if !w.high[cl] && !(cl >= was && cl < was+qcow2.HostCluster(m)) {
				return false
			}
		}
		for cl := was; cl < was+qcow2.HostCluster(m); cl++ {
			if !w.low[cl] && !(cl >= first && cl < first+qcow2.HostCluster(n)) {
				return false
			}
		}
	case placeL1, placeBitmaps:
		const offset = 1<<56 - 1<<9
		if w.leads && (v^e)&offset == 0 || v&^e&^offset&^(1<<63) != 0 {
			return false
		}
		to, from := qcow2.L1Entry(v).Offset(), qcow2.L1Entry(e).Offset()
		if to == from && len(w.low) > 0 {
			return false
		}
		if to != 0 && to != from && (!w.g.Aligned(to) || !w.high[w.g.HostCluster(to)]) {
			return false
		}
	case placeRefcounts:
		to := qcow2.RefTableEntry(v).Offset()
		if w.leads && to == qcow2.RefTableEntry(e).Offset() || v&^e&(1<<9-1) != 0 {
			return false
		}
		return to == 0 || w.g.Aligned(to) && qcow2.RangeFits(uint64(to), w.g.ClusterSize(), uint64(w.o.size))
	}
	return true
}

// same tells that two L2 entries name the same clusters.
func (w *entryBits) same(e, v uint64) bool {
	_, n := w.names(qcow2.L2Entry(e))
	_, m := w.names(qcow2.L2Entry(v))
	return n == m
}

// names gives the clusters that an L2 entry names, if they lie in the file.
func (w *entryBits) names(e qcow2.L2Entry) (qcow2.HostCluster, uint64) {
	if e.Compressed() {
		d := w.g.Compressed(e)
		if w.g.PastEnd(d.Offset, d.Length(), w.o.size) {
			return 0, 0
		}
		return w.g.ClusterSpan(d.Offset, d.Length())
	}
	off := e.Offset()
	if off == 0 || !w.g.Aligned(off) || uint64(off) >= uint64(w.o.size) {
		return 0, 0
	}
	return w.g.HostCluster(off), 1
}

// tables lists the bits of all entries of short tables: a bit that is gone may have left
// an entry that nothing is wrong with.
func (w *entryBits) tables() {
	w.leads = true
	defer func() { w.leads = false }()
	for _, l := range w.ev.L1Tables() {
		if w.reach&reachL1Entry == 0 {
			break
		}
		for i := range min(l.Entries, maxSpans) {
			what := fmt.Sprintf("l1[%d]", i)
			if l.Snapshot != "" {
				what += " of snapshot " + l.Snapshot
			}
			w.entry(l.Offset+qcow2.HostOffset(i*8), what, placeL1)
		}
	}
	if w.ev.RefTableUsable() && w.reach&reachRefTableEntry != 0 {
		for _, b := range w.ev.Blocks {
			if b.Index < maxSpans {
				w.entry(w.h.RefcountTableOffset+qcow2.HostOffset(b.Index*8), fmt.Sprintf("refcount table[%d]", b.Index), placeRefcounts)
			}
		}
	}
	for i := range w.ev.Bitmaps {
		b := &w.ev.Bitmaps[i]
		if w.reach&reachBitmapTable == 0 || w.g.PastEnd(b.TableOffset, uint64(b.TableSize)*8, w.o.size) {
			continue
		}
		for k := range min(uint64(b.TableSize), maxSpans) {
			w.entry(b.TableOffset+qcow2.HostOffset(k*8), "table of bitmap "+check.Escape(b.Name), placeBitmaps)
		}
	}
}

// tail lists the only bit that is set behind the last one of a bitmap, if there is but
// one: it is as likely to have come there as what says how long the bitmap is. It is not
// cleared, see BMX001.
func (w *entryBits) tail(f *problem.Finding) {
	if f.Extent.Length > w.g.ClusterSize() {
		return
	}
	raw := w.word(f.Extent.Offset, int(f.Extent.Length))
	at, bit := -1, 0
	for i, v := range raw {
		if i == 0 {
			continue // has bits of the bitmap, too
		}
		for k := range 8 {
			if v>>k&1 != 0 {
				if at >= 0 {
					return
				}
				at, bit = i, k
			}
		}
	}
	if at >= 0 {
		w.list = append(w.list, patch{at: f.Extent.Offset + qcow2.HostOffset(at), old: raw[at : at+1], new: []byte{raw[at] ^ 1<<bit}, what: "data of a bitmap", kind: placeBitmaps, tail: true})
	} else if len(raw) > 0 {
		n := len(w.list)
		w.flip(f.Extent.Offset, 1, "data of a bitmap", placeBitmaps)
		for i := range w.list[n:] {
			w.list[n+i].tail = true
		}
	}
}

// refcounts lists the bits that make a refcount what the references are where it is lower:
// to lower one is to give a cluster back, which is not for one bit to decide.
func (w *entryBits) refcounts() {
	width := uint64(w.g.RefcountBits())
	blocks := make(map[uint64]qcow2.HostOffset, len(w.ev.Blocks))
	for _, b := range w.ev.Blocks {
		blocks[b.Index] = b.Offset
	}
	for _, list := range [][]disagreement{w.before.low} {
		if len(list) > maxPlaces {
			continue // not by one bit of theirs
		}
		for _, d := range list {
			if len(w.own) > 0 || len(w.before.low) > 1 || len(w.before.low) == 1 && d != w.before.low[0] {
				continue // that would still be low
			}
			diff := d.refcount ^ d.references
			if diff&(diff-1) != 0 {
				continue
			}
			per := w.g.RefcountBlockEntries()
			block, there := blocks[uint64(d.cluster)/per]
			if !there {
				continue
			}
			bit := 0
			for diff>>bit != 1 {
				bit++
			}
			entry := uint64(d.cluster) % per
			at, shift := entry*width/8, uint(entry*width%8)+uint(bit)
			if width >= 8 {
				at, shift = entry*width/8+(width-1-uint64(bit))/8, uint(bit%8)
			}
			if raw := w.word(block+qcow2.HostOffset(at), 1); raw != nil {
				w.list = append(w.list, patch{at: block + qcow2.HostOffset(at), old: raw, new: []byte{raw[0] ^ 1<<shift},
					what: fmt.Sprintf("refcount of cluster %d", d.cluster), kind: placeRefcounts})
			}
		}
	}
}
