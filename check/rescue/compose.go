package rescue

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/qcheck/qcheck/check/sniff"
	"github.com/qcheck/qcheck/qcow2"
)

// compose makes the model of the image.
func (s *search) compose(ctx context.Context, a *fit) error {
	f, m := s.f, &s.m
	s.baseHeader()
	s.remains()
	if f.refs != nil {
		f.own(f.refs.off, uint64(f.refs.clusters)*f.g.ClusterSize())
		for _, b := range f.refs.table.Blocks() {
			f.own(b.Offset, f.g.ClusterSize())
		}
		m.fact("refcount table", SourceFound, "it counts itself and the clusters of L2 tables", "%v, %d bits wide", f.refs.off, 1<<f.refs.order)
	}
	s.encryption()
	s.findBitmaps()
	s.findSnapshots()
	for i := range a.l1s {
		for _, e := range a.l1s[i].entries {
			if t, is := f.table(e.Offset()); e != 0 && !is && t == nil {
				f.own(e.Offset(), f.g.ClusterSize())
			}
		}
	}
	if err := s.activeDisk(ctx, f.findL1s()); err != nil {
		return err
	}
	s.dropBroken()
	s.virtualSize()
	s.fitBitmaps()
	m.newRefcounts = f.refs == nil || !s.opts.Keep
	if m.newRefcounts && m.h.Version != 2 && (s.h0 == nil || len(m.snapshots) > 0) {
		m.h.RefcountOrder = max(m.h.RefcountOrder, 4) // what shares clusters needs room to count
	}
	if !m.newRefcounts {
		m.h.RefcountTableOffset, m.h.RefcountTableClusters = f.refs.off, f.refs.clusters
	}
	if s.guessed && !s.opts.AcceptGuesses {
		return s.refuse()
	}
	return nil
}

// baseHeader begins with the header that is there, that of a sibling, or a new one.
func (s *search) baseHeader() {
	m, g := &s.m, s.f.g
	h := s.header()
	switch {
	case h != nil && h == s.h0:
		m.h = *h
		m.fact("header", SourceHeader, "", "version %d, clusters of %s", h.Version, readable(g.ClusterSize()))
		if img, err := qcow2.Open(s.r, s.r.size); err == nil {
			s.extensions(img)
		}
	case h != nil:
		m.h = *h
		m.h.AutoclearFeatures = 0
		m.h.IncompatibleFeatures &^= qcow2.IncompatCorrupt | qcow2.IncompatDirty
		m.h.L1TableOffset, m.h.L1Size, m.h.NbSnapshots, m.h.SnapshotsOffset = 0, 0, 0, 0
		m.fact("header", SourceSibling, "", "version %d, clusters of %s", h.Version, readable(g.ClusterSize()))
		s.extensions(s.opts.Sibling)
		m.luks, m.bitmaps = nil, nil
	default:
		m.h = qcow2.Header{Version: 3, ClusterBits: uint32(g.ClusterBits), RefcountOrder: 4, HeaderLength: qcow2.HeaderLengthCompression}
		m.fact("cluster size", s.given(s.opts.ClusterSize != 0), "the tables make sense with it", "%d", g.ClusterSize())
		m.fact("version", SourceAssumed, "what version 2 can say reads the same in version 3", "3")
		if g.ExtendedL2 {
			m.h.IncompatibleFeatures |= qcow2.IncompatExtendedL2
			m.fact("extended L2 entries", SourceFound, "the L2 tables have entries of 16 bytes", "yes")
		}
		if s.f.refs != nil {
			m.h.RefcountOrder = uint32(s.f.refs.order)
		}
		s.compression()
		if s.f.dataFile {
			m.h.IncompatibleFeatures |= qcow2.IncompatDataFile
			m.fact("external data file", SourceFound, "every L2 entry leads to the offset that it maps", "yes")
		}
	}
	s.files()
	if s.f.dataFile && m.dataFile == "" {
		m.fact("data file", SourceAssumed, "its name cannot be read back: give it with --data-file", "unknown")
	}
}

func (s *search) given(yes bool) Source {
	if yes {
		return SourceUser
	}
	return SourceFound
}

// extensions takes over what the header extensions of an image say.
func (s *search) extensions(img *qcow2.Image) {
	m := &s.m
	if name, ok := img.BackingFileName(); ok {
		m.backing = string(name)
	}
	for _, e := range img.Extensions {
		if e.Overruns() {
			continue
		}
		switch e.Type {
		case qcow2.ExtBackingFormat:
			m.backingFormat = string(e.Data)
		case qcow2.ExtDataFile:
			m.dataFile = string(e.Data)
		case qcow2.ExtCrypto:
			x := qcow2.DecodeCryptoExtension(e.Data)
			m.luks = &x
		case qcow2.ExtBitmaps:
			x := qcow2.DecodeBitmapsExtension(e.Data)
			m.bitmaps = &x
		default:
			m.raw = append(m.raw, qcow2.Extension{Type: e.Type, Data: bytes.Clone(e.Data)})
		}
	}
}

// compression finds the method from what can be decompressed.
func (s *search) compression() {
	tried, zlib, zstd := s.f.unpack()
	switch {
	case tried == 0:
		return
	case zstd > zlib:
		s.m.h.CompressionType = qcow2.CompressionZstd
		s.m.h.IncompatibleFeatures |= qcow2.IncompatCompression
		s.m.fact("compression", SourceFound, fmt.Sprintf("%d of %d clusters that were tried decompress", zstd, tried), "zstd")
	default:
		s.m.fact("compression", SourceFound, fmt.Sprintf("%d of %d clusters that were tried decompress", zlib, tried), "zlib")
	}
}

// files takes the names of other files that the user has given.
func (s *search) files() {
	m := &s.m
	if n := s.opts.BackingFile; n != "" {
		m.backing, m.backingFormat = n, s.opts.BackingFormat
		m.fact("backing file", SourceUser, "", "%q", n)
	} else if f := s.opts.BackingFormat; f != "" && m.backing != "" {
		m.backingFormat = f
	}
	if n := s.opts.DataFile; n != "" {
		m.dataFile = n
		m.h.IncompatibleFeatures |= qcow2.IncompatDataFile
		m.fact("external data file", SourceUser, "", "%q", n)
	}
}

// remains reads what is left of a header cluster whose first sector is gone: the end of the
// table of feature names, which only version 3 has, and behind it the name of the backing
// file. QEMU fills the rest of the cluster with zeros.
func (s *search) remains() {
	if s.header() != nil || s.f.g.ClusterSize() <= qcow2.SectorSize {
		return
	}
	b := make([]byte, min(s.f.g.ClusterSize(), 4096)-qcow2.SectorSize)
	if s.r.readBase(b, qcow2.SectorSize) != nil {
		return
	}
	i := bytes.LastIndex(b, []byte("raw external data\x00"))
	if i < 0 {
		if i = bytes.LastIndex(b, []byte("lazy refcounts\x00")); i < 0 {
			return
		}
	}
	m := &s.m
	m.fact("version", SourceHeader, "a part of its table of feature names is left", "3")
	// The name in the table ends at a multiple of 48 bytes from its entry's start, two bytes
	// before the name.
	at := i - 2 + qcow2.FeatureNameSize
	rest := b[min(at, len(b)):]
	for len(rest) >= 8 { // the extensions behind it
		typ, n := qcow2.ExtensionType(be32(rest)), uint64(be32(rest[4:]))
		if typ == qcow2.ExtEnd {
			rest = rest[8:]
			break
		}
		n = 8 + (n+7)&^7
		if n > uint64(len(rest)) {
			return
		}
		rest = rest[n:]
	}
	name, _, _ := bytes.Cut(rest, []byte{0})
	if len(name) == 0 || m.backing != "" || !sniff.Zero(rest[len(name):]) || slices.ContainsFunc(name, func(c byte) bool { return c < 0x20 || c == 0x7f }) {
		return
	}
	m.backing, m.backingFormat = string(name), s.opts.BackingFormat
	m.fact("backing file", SourceHeader, "its name is left in the header cluster", "%q", name)
}

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// encryption finds the LUKS header.
func (s *search) encryption() {
	m := &s.m
	if s.h0 != nil {
		if m.luks != nil {
			s.f.own(m.luks.Offset, m.luks.Length)
		}
		return
	}
	if m.luks = s.f.findLUKS(); m.luks != nil {
		m.h.CryptMethod = qcow2.CryptLUKS
		s.f.own(m.luks.Offset, m.luks.Length)
		m.fact("encryption", SourceFound, fmt.Sprintf("there is a LUKS header at %v, which no L2 table maps", m.luks.Offset), "LUKS")
	}
}

// findSnapshots finds the snapshot table where the header does not lead to one.
func (s *search) findSnapshots() {
	f, m := s.f, &s.m
	if s.h0 != nil {
		if m.h.NbSnapshots == 0 {
			return
		}
		if f.g.Aligned(m.h.SnapshotsOffset) && m.h.SnapshotsOffset != 0 && uint64(m.h.SnapshotsOffset) < f.size {
			if t := f.snapshotsAt(m.h.SnapshotsOffset); t != nil && uint32(len(t.snapshots)) >= m.h.NbSnapshots {
				m.snapshots = t.snapshots[:m.h.NbSnapshots]
				s.ownSnapshots(t)
				return
			}
		}
	}
	m.h.NbSnapshots, m.h.SnapshotsOffset = 0, 0
	t, several := f.findSnapshots()
	if t == nil {
		return
	}
	if several && f.refs == nil {
		s.m.fact("snapshots", SourceGuess, "there are several snapshot tables, and no refcounts to tell which one is in use; none is taken", "%d", len(t.snapshots))
		if !s.opts.AcceptGuesses {
			return
		}
	}
	m.snapshots = t.snapshots
	m.h.NbSnapshots, m.h.SnapshotsOffset = uint32(len(t.snapshots)), t.off
	m.fact("snapshot table", SourceFound, "its entries lead to L1 tables", "%v, %d snapshots", t.off, len(t.snapshots))
	s.ownSnapshots(t)
}

// ownSnapshots notes the clusters of snapshots' L1 tables.
func (s *search) ownSnapshots(t *snapshotTable) {
	s.f.own(t.off, t.length)
	for i := range s.m.snapshots {
		s.f.own(s.m.snapshots[i].L1TableOffset, uint64(s.m.snapshots[i].L1Size)*8)
	}
}

// readEntries reads an L1 table at a place that is known.
func (f *finder) readEntries(off qcow2.HostOffset, n uint64) ([]byte, error) {
	n = min(n, qcow2.MaxL1Entries)
	if uint64(off) >= f.size {
		return nil, io.ErrUnexpectedEOF
	}
	b := make([]byte, n*8)
	return b, f.r.readBase(b, int64(off))
}
