package check

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

const pageSize = 4096

// sparseFile is an image file in memory. What was never written is a hole.
type sparseFile struct {
	pages  map[int64][]byte
	order  []int64 // page numbers in order; nil when it must be made anew
	size   int64
	bad    []qcow2.Extent // reads that touch them fail
	read   int64          // bytes read so far
	holing bool           // holes are told to who asks
}

var errBadSector = errors.New("bad sector")

func newSparseFile() *sparseFile { return &sparseFile{pages: make(map[int64][]byte), holing: true} }

func (f *sparseFile) write(off qcow2.HostOffset, b []byte) {
	f.size = max(f.size, int64(off)+int64(len(b)))
	for at := int64(off); len(b) > 0; {
		page := f.pages[at/pageSize]
		if page == nil {
			page = make([]byte, pageSize)
			f.pages[at/pageSize], f.order = page, nil
		}
		n := copy(page[at%pageSize:], b)
		at, b = at+int64(n), b[n:]
	}
}

// flip changes bits of one byte.
func (f *sparseFile) flip(off qcow2.HostOffset, mask byte) {
	b := []byte{0}
	f.copyOut(b, int64(off))
	f.write(off, []byte{b[0] ^ mask})
}

func (f *sparseFile) copyOut(p []byte, off int64) {
	clear(p)
	for done := 0; done < len(p); {
		at := off + int64(done)
		n := min(len(p)-done, int(pageSize-at%pageSize))
		if page := f.pages[at/pageSize]; page != nil {
			copy(p[done:done+n], page[at%pageSize:])
		}
		done += n
	}
}

func (f *sparseFile) ReadAt(p []byte, off int64) (int, error) {
	for _, b := range f.bad {
		if off < int64(b.Offset)+int64(b.Length) && int64(b.Offset) < off+int64(len(p)) {
			return 0, errBadSector
		}
	}
	if off >= f.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), f.size-off))
	f.copyOut(p[:n], off)
	f.read += int64(n)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// NextData makes sparseFile a [qcow2.DataFinder].
func (f *sparseFile) NextData(off int64) (start, end int64, err error) {
	if !f.holing {
		return off, f.size, nil
	}
	if f.order == nil {
		for p := range f.pages {
			f.order = append(f.order, p)
		}
		slices.Sort(f.order)
	}
	i, _ := slices.BinarySearch(f.order, off/pageSize)
	if i == len(f.order) {
		return f.size, f.size, nil
	}
	start = max(off, f.order[i]*pageSize)
	for end = (f.order[i] + 1) * pageSize; i+1 < len(f.order) && f.order[i+1]*pageSize == end; i++ {
		end += pageSize
	}
	return start, end, nil
}

// testImage is an image under construction, with refcounts that are right
// whatever is added to it.
type testImage struct {
	*sparseFile
	h      qcow2.Header
	g      qcow2.Geometry
	exts   []byte
	refs   map[qcow2.HostCluster]uint16
	next   qcow2.HostCluster
	blocks qcow2.HostOffset
}

const testBlocks = 4 // refcount blocks of a test image

// newTestImage starts an image with an empty disk of 64 MiB in clusters of
// 64 KiB, unless change says otherwise. Its refcounts have 16 bits.
func newTestImage(t testing.TB, change func(h *qcow2.Header)) *testImage {
	t.Helper()
	m := &testImage{sparseFile: newSparseFile(), refs: make(map[qcow2.HostCluster]uint16)}
	m.h = qcow2.Header{
		Version: 3, ClusterBits: 16, Size: 64 << 20, RefcountOrder: 4, HeaderLength: qcow2.HeaderLengthCompression,
		RefcountTableClusters: 1,
	}
	if change != nil {
		change(&m.h)
	}
	if m.h.Version == 2 {
		m.h.HeaderLength = qcow2.HeaderLengthV2
	}
	var ok bool
	m.g, ok = m.h.Geometry()
	require.True(t, ok)
	m.alloc(m.g.ClusterSize())
	m.h.RefcountTableOffset = m.alloc(m.g.ClusterSize())
	m.blocks = m.alloc(testBlocks * m.g.ClusterSize())
	m.h.L1Size = uint32(m.h.L1Needed(m.g))
	m.h.L1TableOffset = m.g.HostOffset(m.next)
	m.put(make([]byte, m.h.L1Size*8))
	return m
}

// alloc takes clusters for n bytes at the end of the image.
func (m *testImage) alloc(n uint64) qcow2.HostOffset {
	at := m.g.HostOffset(m.next)
	for range m.g.Clusters(n) {
		m.refs[m.next]++
		m.next++
	}
	return at
}

// put finds place for b and writes it there.
func (m *testImage) put(b []byte) qcow2.HostOffset {
	at := m.alloc(uint64(len(b)))
	m.write(at, b)
	return at
}

// setExtension adds a header extension and gives the place of its data.
func (m *testImage) setExtension(typ qcow2.ExtensionType, data []byte) qcow2.HostOffset {
	at := qcow2.HostOffset(int(m.h.HeaderLength) + len(m.exts) + 8)
	m.exts = append(m.exts, qcow2.EncodeExtension(typ, data)...)
	return at
}

// finish writes the header and the refcounts.
func (m *testImage) finish() *testImage {
	for i := range qcow2.HostOffset(testBlocks) {
		at := m.blocks + i<<m.g.ClusterBits
		m.write(m.h.RefcountTableOffset+i*8, binary.BigEndian.AppendUint64(nil, uint64(at)))
	}
	for c, n := range m.refs {
		if uint64(c) >= testBlocks*m.g.RefcountBlockEntries() {
			panic("too few refcount blocks for this image")
		}
		m.write(m.blocks+qcow2.HostOffset(c*2), binary.BigEndian.AppendUint16(nil, n))
	}
	m.writeHeader()
	m.size = max(m.size, int64(m.g.HostOffset(m.next)))
	return m
}

func (m *testImage) writeHeader() {
	m.write(0, m.h.Encode())
	m.write(qcow2.HostOffset(m.h.HeaderLength), append(m.exts, make([]byte, 8)...))
}

// inspect runs a check and gives its inner state.
func (m *testImage) inspect(t testing.TB, opts Options) *run {
	t.Helper()
	img, err := qcow2.Open(m.sparseFile, m.size)
	require.NoError(t, err)
	c := newRun(context.Background(), img, opts)
	require.NoError(t, c.runPasses())
	c.res.Findings = c.Collector.Findings()
	c.res.settle()
	return c
}

// spot is a code and the bytes at fault.
type spot struct {
	code   problem.Code
	offset qcow2.HostOffset
	length uint64
}

// assertFindings checks the image and asserts that it has exactly the given
// findings.
func assertFindings(t *testing.T, m *testImage, want ...spot) *run {
	t.Helper()
	c := m.inspect(t, Options{})
	assertSpots(t, want, c.res.Findings)
	return c
}

func assertSpots(t *testing.T, want []spot, fs []problem.Finding) {
	t.Helper()
	var got []spot
	for i := range fs {
		if fs[i].Code == problem.OwnerUnknown {
			continue // what a structure that cannot be found leaves without an owner
		}
		got = append(got, spot{fs[i].Code, fs[i].Extent.Offset, fs[i].Extent.Length})
	}
	if !assert.ElementsMatch(t, want, got) {
		for _, f := range fs {
			t.Logf("%s at %v+%d: %s", f.Code, f.Extent.Offset, f.Extent.Length, f.Text())
		}
	}
}
