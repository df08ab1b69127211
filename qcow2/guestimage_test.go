package qcow2_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/qcow2"
)

// guestImage makes images with chosen L2 entries. Cluster 0 is the header,
// 1 the refcount table (empty: such an image is for reading), 2 the L1 table,
// 3 the L2 table, and data clusters follow.
type guestImage struct {
	header qcow2.Header
	file   *memFile
	next   qcow2.HostOffset // where the next data cluster goes
	l2     []byte
}

const (
	guestL1 = 2
	guestL2 = 3
)

// newGuestImage makes an image of one L2 table; header fields that are not set
// get their usual values.
func newGuestImage(h qcow2.Header) *guestImage {
	if h.Version == 0 {
		h.Version = 3
	}
	if h.ClusterBits == 0 {
		h.ClusterBits = 16
	}
	if h.Size == 0 {
		h.Size = 32 << h.ClusterBits
	}
	h.HeaderLength, h.RefcountOrder = qcow2.HeaderLengthCompression, 4
	if h.CompressionType != 0 {
		h.IncompatibleFeatures |= qcow2.IncompatCompression
	}
	h.L1Size = 1
	h.L1TableOffset = guestL1 << h.ClusterBits
	h.RefcountTableOffset = 1 << h.ClusterBits
	h.RefcountTableClusters = 1
	g, _ := h.Geometry()
	m := &guestImage{
		header: h,
		file:   newFile(h, 4<<h.ClusterBits),
		next:   4 << h.ClusterBits,
		l2:     make([]byte, g.ClusterSize()),
	}
	m.file.parts[guestL1<<h.ClusterBits] = words(uint64(qcow2.NewL1Entry(guestL2<<h.ClusterBits, true)))
	m.file.parts[guestL2<<h.ClusterBits] = m.l2
	return m
}

// set makes the L2 entry of guest cluster i.
func (m *guestImage) set(i int, e qcow2.L2Entry, sub ...qcow2.SubclusterBitmap) {
	if m.header.ExtendedL2() {
		copy(m.l2[i*16:], words(uint64(e), uint64(append(sub, 0)[0])))
		return
	}
	copy(m.l2[i*8:], words(uint64(e)))
}

// add stores data at the next cluster and gives its place.
func (m *guestImage) add(data []byte) qcow2.HostOffset {
	at := m.next
	m.file.parts[int64(at)] = data
	size := qcow2.HostOffset(1) << m.header.ClusterBits
	m.next += (qcow2.HostOffset(len(data)) + size - 1) &^ (size - 1)
	m.file.size = int64(m.next)
	return at
}

// addCompressed stores compressed data and gives its L2 entry.
func (m *guestImage) addCompressed(data []byte) qcow2.L2Entry {
	g, _ := m.header.Geometry()
	return g.NewCompressedEntry(m.add(data), uint64(len(data)))
}

// cluster gives a cluster full of b.
func (m *guestImage) cluster(b byte) []byte {
	return bytes.Repeat([]byte{b}, 1<<m.header.ClusterBits)
}

func (m *guestImage) disk(t testing.TB, opts qcow2.DiskOptions) *qcow2.Disk {
	t.Helper()
	d, err := m.file.open(t).ActiveDisk(opts)
	require.NoError(t, err)
	return d
}

// write makes a file of the image and gives its path.
func (m *guestImage) write(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest.qcow2")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	for at, part := range m.file.parts {
		_, err = f.WriteAt(part, at)
		require.NoError(t, err)
	}
	require.NoError(t, f.Truncate(m.file.size))
	return path
}
