package rescue

import (
	"encoding/binary"
	"fmt"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// Source is how something is known.
type Source string

// The sources.
const (
	SourceHeader  Source = "header"  // the header of the file, or what is left of it
	SourceFound   Source = "found"   // what the file holds proves it
	SourceUser    Source = "given"   // an option says so
	SourceSibling Source = "sibling" // the header of another image says so
	SourceAssumed Source = "assumed" // nothing tells, and the image reads the same either way
	SourceGuess   Source = "guess"   // likely, not proven
)

// Fact is something about the image, and how it is known.
type Fact struct {
	What   string // "cluster size"
	Value  string // "65536"
	Source Source
	Why    string // in words; empty where there is nothing to add
}

// model is the image that a header will make of the file.
type model struct {
	h             qcow2.Header
	luks          *qcow2.CryptoExtension
	bitmaps       *qcow2.BitmapsExtension
	backing       string
	backingFormat string
	dataFile      string
	// raw are the extensions of a header that is in order, to be kept as they are.
	raw []qcow2.Extension

	l1        []qcow2.L1Entry // to be written anew; nil: it is where h says
	snapshots []qcow2.Snapshot
	// newSnapshots tells that the snapshot table is to be written anew.
	newSnapshots bool
	newRefcounts bool
	facts        []Fact
}

func (m *model) fact(what string, source Source, why, format string, args ...any) {
	m.facts = append(m.facts, Fact{What: what, Value: fmt.Sprintf(format, args...), Source: source, Why: why})
}

// firstCluster gives the bytes of the header cluster.
func (m *model) firstCluster(g qcow2.Geometry) ([]byte, error) {
	b := make([]byte, g.ClusterSize())
	at := uint64(len(m.h.Encode()))
	add := func(typ qcow2.ExtensionType, data []byte) error {
		e := qcow2.EncodeExtension(typ, data)
		if at+uint64(len(e)) > uint64(len(b)) {
			return fmt.Errorf("the header with its extensions does not fit into a cluster of %d bytes", len(b))
		}
		at += uint64(copy(b[at:], e))
		return nil
	}
	var err error
	put := func(typ qcow2.ExtensionType, data []byte) {
		if err == nil {
			err = add(typ, data)
		}
	}
	if m.backingFormat != "" {
		put(qcow2.ExtBackingFormat, []byte(m.backingFormat))
	}
	if m.dataFile != "" {
		put(qcow2.ExtDataFile, []byte(m.dataFile))
	}
	if m.luks != nil {
		put(qcow2.ExtCrypto, m.luks.Encode())
	}
	if m.bitmaps != nil {
		put(qcow2.ExtBitmaps, m.bitmaps.Encode())
	}
	for _, e := range m.raw {
		put(e.Type, e.Data)
	}
	if err != nil {
		return nil, err
	}
	m.h.BackingFileOffset, m.h.BackingFileSize = 0, 0
	if m.backing != "" {
		if at += 8; at+uint64(len(m.backing)) > uint64(len(b)) || len(m.backing) > qcow2.MaxBackingFileName {
			return nil, fmt.Errorf("the name of the backing file does not fit into the header cluster")
		}
		m.h.BackingFileOffset, m.h.BackingFileSize = qcow2.HostOffset(at), uint32(len(m.backing))
		copy(b[at:], m.backing)
	}
	copy(b, m.h.Encode())
	return b, nil
}

// patch makes the file one that the model's header leads through. New tables go past the
// end of the file.
func (s *search) patch() (*patched, error) {
	p := newPatched(s.r.base, s.r.baseSize)
	g := s.f.g
	end := qcow2.HostOffset(g.Clusters(uint64(p.baseSize)) * g.ClusterSize())
	grow := func(b []byte, reason string) qcow2.HostOffset {
		at := end
		n := g.Clusters(uint64(len(b))) * g.ClusterSize()
		full := make([]byte, n)
		copy(full, b)
		p.put(at, full, reason)
		end += qcow2.HostOffset(n)
		return at
	}
	m := &s.m
	for _, e := range s.edits {
		p.put(e.Offset, e.New, e.Reason)
	}
	if m.l1 != nil {
		b := make([]byte, len(m.l1)*8)
		for i, e := range m.l1 {
			binary.BigEndian.PutUint64(b[i*8:], uint64(e))
		}
		m.h.L1TableOffset, m.h.L1Size = grow(b, "L1 table made of the L2 tables that were found"), uint32(len(m.l1))
	}
	if m.newSnapshots {
		m.h.NbSnapshots, m.h.SnapshotsOffset = uint32(len(m.snapshots)), 0
		var b []byte
		for i := range m.snapshots {
			b = append(b, m.snapshots[i].Encode()...)
		}
		if len(b) > 0 {
			m.h.SnapshotsOffset = grow(b, "snapshot table")
		}
	}
	if m.newRefcounts {
		m.h.RefcountTableOffset, m.h.RefcountTableClusters = grow(make([]byte, g.ClusterSize()), "refcount table"), 1
	}
	first, err := m.firstCluster(g)
	if err != nil {
		return nil, err
	}
	p.put(0, first, "header")
	return p, nil
}

// size is how a number of bytes is shown.
func readable(n uint64) string { return check.ReadableSize(n) }
