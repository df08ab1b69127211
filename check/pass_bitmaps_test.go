package check

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// testBitmap is a bitmap of a test image: its entry and its table, with what
// the stored clusters hold.
type testBitmap struct {
	qcow2.BitmapEntry
	table []uint64
	data  [][]byte // by table entry; nil: not stored
}

// bitmapImage is a test image with bitmaps: clusters of 512 bytes and a disk
// of 8,195 sectors, so that a bitmap of granularity 512 has 3 clusters, with 3
// bits in the last one.
type bitmapImage struct {
	*testImage
	ext       qcow2.BitmapsExtension
	extAt     qcow2.HostOffset
	bitmaps   []*testBitmap
	directory []byte
}

const (
	testDisk = 8195 * 512
	testGran = 9
)

// newBitmap describes a bitmap with a stored cluster, one of ones and a stored
// one.
func newBitmap(name string, flags qcow2.BitmapFlags) *testBitmap {
	return &testBitmap{
		BitmapEntry: qcow2.BitmapEntry{Name: []byte(name), Flags: flags, Type: qcow2.BitmapDirtyTracking, GranularityBits: testGran},
		data:        [][]byte{{1, 2, 3}, nil, {5}},
	}
}

// newBitmapImage lays the bitmaps out: directory, then for each its table and
// its data. edit changes them before they are written, in the order
// extension, directory; it may be nil.
func newBitmapImage(t testing.TB, header func(*qcow2.Header), edit func(m *bitmapImage), bitmaps ...*testBitmap) *bitmapImage {
	t.Helper()
	m := &bitmapImage{testImage: newTestImage(t, func(h *qcow2.Header) {
		h.ClusterBits, h.Size = 9, testDisk
		h.AutoclearFeatures = qcow2.AutoclearBitmaps
		if header != nil {
			header(h)
		}
	}), bitmaps: bitmaps}
	for _, b := range bitmaps {
		if b.TableSize == 0 {
			b.TableSize = uint32(len(b.data))
		}
		b.TableOffset = m.alloc(uint64(len(b.data)) * 8)
		b.table = make([]uint64, len(b.data))
		for i, d := range b.data {
			b.table[i] = uint64(qcow2.AllOnesEntry)
			if d != nil {
				b.table[i] = uint64(m.put(append(d, make([]byte, 512-len(d))...)))
			}
		}
	}
	m.encodeDirectory()
	m.ext = qcow2.BitmapsExtension{NbBitmaps: uint32(len(bitmaps)), DirectorySize: uint64(len(m.directory)), DirectoryOffset: m.alloc(uint64(len(m.directory)))}
	if edit != nil {
		edit(m)
	}
	m.encodeDirectory()
	m.write(m.ext.DirectoryOffset, m.directory)
	for _, b := range bitmaps {
		var table []byte
		for _, e := range b.table {
			table = binary.BigEndian.AppendUint64(table, e)
		}
		m.write(b.TableOffset&^511, table)
	}
	m.extAt = m.setExtension(qcow2.ExtBitmaps, m.ext.Encode())
	m.finish()
	return m
}

// encodeDirectory makes the directory anew and notes where entries stand.
func (m *bitmapImage) encodeDirectory() {
	m.directory = nil
	for _, b := range m.bitmaps {
		b.EntryOffset = m.ext.DirectoryOffset + qcow2.HostOffset(len(m.directory))
		m.directory = append(m.directory, b.Encode()...)
	}
}

func (m *bitmapImage) at(b int, field qcow2.HostOffset) qcow2.HostOffset {
	return m.bitmaps[b].EntryOffset + field
}

func (m *bitmapImage) entryAt(b, i int) qcow2.HostOffset {
	return m.bitmaps[b].TableOffset + qcow2.HostOffset(i*8)
}

const (
	auto  = qcow2.BitmapAuto
	inUse = qcow2.BitmapInUse
)

type bitmapCase struct {
	name   string
	header func(*qcow2.Header)
	edit   func(m *bitmapImage) // of the bitmaps "a" (enabled), "bb" (disabled) and "c"
	damage func(m *bitmapImage) // of the finished file
	flags  qcow2.BitmapFlags    // of "c"
	want   func(m *bitmapImage) []spot
	states string // one letter a bitmap: enabled, disabled, inconsistent, unusable; "none" for no bitmaps
	doubts int    // about structures of the bitmaps
	// unowned tells that clusters are left that may belong to what is lost.
	unowned bool
	worst   problem.Severity
}

func (c bitmapCase) run(t *testing.T) {
	m := newBitmapImage(t, c.header, c.edit, newBitmap("a", auto), newBitmap("bb", 0), newBitmap("c", c.flags))
	if c.damage != nil {
		c.damage(m)
	}
	var want []spot
	if c.want != nil {
		want = c.want(m)
	}
	r := m.inspect(t, Options{})
	found := slices.DeleteFunc(slices.Clone(r.res.Findings), func(f problem.Finding) bool { return f.Code == problem.OwnerUnknown })
	assertSpots(t, want, found)
	assert.Equal(t, c.unowned, len(found) < len(r.res.Findings), "clusters that may belong to what is lost")
	states := ""
	for _, b := range r.res.Bitmaps {
		states += string(b.State[:1])
		assert.Equal(t, b.State == BitmapUnusable, b.Why != "")
	}
	switch c.states {
	case "":
		c.states = "edd"
	case "none":
		c.states = ""
	}
	assert.Equal(t, c.states, states)
	var doubts []Doubt
	for _, d := range r.doubts {
		if d.Owner.isBitmap() {
			doubts = append(doubts, d)
		}
	}
	assert.Len(t, doubts, c.doubts, "%v", doubts)
	worst := problem.Severity(0)
	for _, f := range r.res.Findings {
		worst = max(worst, f.Severity)
	}
	if c.worst != 0 {
		assert.Equal(t, c.worst, worst)
	}
}

// one gives a want function for a single finding.
func one(code problem.Code, where func(m *bitmapImage) qcow2.HostOffset, n uint64) func(m *bitmapImage) []spot {
	return func(m *bitmapImage) []spot { return []spot{{code, where(m), n}} }
}

func extField(field qcow2.HostOffset) func(m *bitmapImage) qcow2.HostOffset {
	return func(m *bitmapImage) qcow2.HostOffset { return m.extAt + field }
}

func entryField(b int, field qcow2.HostOffset) func(m *bitmapImage) qcow2.HostOffset {
	return func(m *bitmapImage) qcow2.HostOffset { return m.at(b, field) }
}

func tableEntry(b, i int) func(m *bitmapImage) qcow2.HostOffset {
	return func(m *bitmapImage) qcow2.HostOffset { return m.entryAt(b, i) }
}

func header(field qcow2.HostOffset) func(m *bitmapImage) qcow2.HostOffset {
	return func(*bitmapImage) qcow2.HostOffset { return field }
}

func TestBitmapsSound(t *testing.T) {
	t.Parallel()
	for _, c := range []bitmapCase{
		{name: "three"},
		{name: "in use", flags: inUse, states: "edi", worst: problem.Warning, want: one(problem.BitmapInUse, entryField(2, 12), 4)},
		{name: "in use and enabled", flags: inUse | auto, states: "edi", want: one(problem.BitmapInUse, entryField(2, 12), 4)},
		{name: "nothing stored", edit: func(m *bitmapImage) {
			for _, b := range m.bitmaps {
				m.drop(b.table[0])
				m.drop(b.table[2])
				b.table = []uint64{0, 1, 0}
			}
		}},
		{name: "raw shell", header: func(h *qcow2.Header) {
			h.IncompatibleFeatures |= qcow2.IncompatDataFile
			h.AutoclearFeatures |= qcow2.AutoclearRawData
		}, edit: func(m *bitmapImage) { m.setExtension(qcow2.ExtDataFile, []byte("disk.raw")) }},
		{name: "long name", edit: func(m *bitmapImage) {
			m.bitmaps[2].Name = bytes.Repeat([]byte("ü"), 511)
			m.resizeDirectory()
		}},
		{name: "the file ends within the last cluster", edit: func(m *bitmapImage) {
			b := m.bitmaps[2]
			m.drop(b.table[2])
			b.table[2] = uint64(m.put([]byte{5}))
		}, damage: func(m *bitmapImage) { m.size -= 511 }},
	} {
		t.Run(c.name, c.run)
	}
}

// drop takes a reference from a cluster.
func (m *bitmapImage) drop(offset uint64) { m.refs[m.g.HostCluster(qcow2.HostOffset(offset))]-- }

// resizeDirectory gives the directory the place that its entries take by now.
func (m *bitmapImage) resizeDirectory() {
	m.encodeDirectory()
	m.ext.DirectorySize = uint64(len(m.directory))
	m.drop(uint64(m.ext.DirectoryOffset))
	m.ext.DirectoryOffset = m.alloc(m.ext.DirectorySize)
	m.encodeDirectory()
}

func TestBitmapsExtension(t *testing.T) {
	t.Parallel()
	nb, reserved, size, offset := extField(0), extField(4), extField(8), extField(16)
	put := func(where func(*bitmapImage) qcow2.HostOffset, b ...byte) func(*bitmapImage) {
		return func(m *bitmapImage) { m.write(where(m), b) }
	}
	found := func(code problem.Code, where func(*bitmapImage) qcow2.HostOffset, n uint64) func(*bitmapImage) []spot {
		return func(m *bitmapImage) []spot {
			return []spot{{code, where(m), n}, {problem.BitmapsOrphaned, m.extAt, 24}}
		}
	}
	for _, c := range []bitmapCase{
		{name: "no autoclear bit", header: func(h *qcow2.Header) { h.AutoclearFeatures = 0 }, states: "uuu", worst: problem.Leak,
			want: one(problem.BitmapsStale, header(qcow2.FieldAutoclearFeatures), 8)},
		{name: "version 2", header: func(h *qcow2.Header) { h.Version = 2 }, states: "uuu", worst: problem.Leak,
			want: func(m *bitmapImage) []spot { return []spot{{problem.BitmapsInVersion2, m.extAt - 8, 32}} }},
		{name: "count 0", damage: put(nb, 0, 0, 0, 0), want: one(problem.BitmapCountWrong, nb, 4)},
		{name: "count too small", damage: put(nb, 0, 0, 0, 2), want: one(problem.BitmapCountWrong, nb, 4)},
		{name: "count too large", damage: put(nb, 0, 0, 0, 4), doubts: 1, want: one(problem.BitmapCountWrong, nb, 4)},
		{name: "count over the limit", damage: put(nb, 0, 1, 0, 3), want: one(problem.BitmapCountWrong, nb, 4)},
		{name: "reserved", damage: put(reserved, 0, 0, 0, 8), want: one(problem.BitmapExtensionReserved, reserved, 4), states: "uuu", worst: problem.Warning},
		{name: "offset 0", damage: put(offset, make([]byte, 8)...), doubts: 2, states: "none", unowned: true, want: found(problem.BitmapDirectoryMisplaced, offset, 8)},
		{name: "offset misaligned", damage: put(extField(23), 8), doubts: 2, states: "none", unowned: true, want: found(problem.BitmapDirectoryMisplaced, offset, 8)},
		{name: "offset past the end", damage: put(extField(18), 8), doubts: 2, states: "none", unowned: true, want: found(problem.BitmapDirectoryMisplaced, offset, 8)},
		{name: "size 0", damage: put(size, make([]byte, 8)...), want: one(problem.BitmapDirectoryMisplaced, size, 8)},
		{name: "size over the limit", damage: put(extField(11), 4), want: one(problem.BitmapDirectoryMisplaced, size, 8)},
		{name: "size past the end", damage: put(extField(13), 4), want: one(problem.BitmapDirectoryMisplaced, size, 16)},
		{name: "size too large", damage: put(extField(15), 120), want: one(problem.BitmapDirectorySize, size, 8)},
		{name: "size too large, by an entry's", damage: put(extField(15), 96+32), want: one(problem.BitmapDirectorySize, size, 8)},
		{name: "size too small, by an entry", damage: put(extField(15), 64), want: one(problem.BitmapDirectorySize, size, 8)},
		{name: "size too small, within an entry", damage: put(extField(15), 88), want: one(problem.BitmapDirectorySize, size, 8)},
		{name: "size too small, within a head", damage: put(extField(15), 72), want: one(problem.BitmapDirectorySize, size, 8)},
		{name: "trailing bytes", doubts: 1, want: one(problem.BitmapDirectorySize, size, 8), edit: func(m *bitmapImage) {
			m.write(m.ext.DirectoryOffset+96, bytes.Repeat([]byte{0xaa}, 48))
			m.ext.DirectorySize += 48
		}},
		{name: "empty", damage: put(nb, make([]byte, 24)...), doubts: 2, states: "none", unowned: true, want: found(problem.BitmapCountWrong, nb, 4)},
		{name: "short", damage: func(m *bitmapImage) { m.write(m.extAt-1, append([]byte{16}, make([]byte, 24)...)) }, doubts: 3, states: "none", unowned: true,
			want: func(m *bitmapImage) []spot {
				return []spot{{problem.ExtensionLength, m.extAt - 4, 4}, {problem.BitmapsOrphaned, m.extAt - 8, 32}}
			}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestNoBitmapsExtension(t *testing.T) {
	t.Parallel()
	m := newTestImage(t, func(h *qcow2.Header) { h.AutoclearFeatures = qcow2.AutoclearBitmaps }).finish()
	r := assertFindings(t, m, spot{problem.BitmapExtensionMissing, qcow2.FieldAutoclearFeatures, 8})
	assert.Len(t, r.doubts, 1)
	m.h.AutoclearFeatures = 0
	m.writeHeader()
	r = assertFindings(t, m)
	assert.Empty(t, r.doubts)
}

// The extension may stand twice; the last one counts, and what the other leads
// to is nobody's leak.
func TestTwoBitmapsExtensions(t *testing.T) {
	t.Parallel()
	m := newBitmapImage(t, nil, func(m *bitmapImage) {
		m.setExtension(qcow2.ExtBitmaps, qcow2.BitmapsExtension{NbBitmaps: 1, DirectorySize: 32, DirectoryOffset: 1 << 20}.Encode())
	}, newBitmap("a", auto))
	r := m.inspect(t, Options{})
	require.Len(t, r.res.Findings, 1)
	assert.Equal(t, problem.ExtensionDuplicate, r.res.Findings[0].Code)
	assert.NotEmpty(t, r.doubts)
	assert.Len(t, r.bitmaps, 1)
}

// Software that knows no bitmaps may have freed the clusters of stale ones and
// used them for something else; that is nobody's fault. Those that are left are
// no leaks, but those beside them are.
func TestStaleBitmapsOwnOnlyWhatNobodyElseHas(t *testing.T) {
	t.Parallel()
	stale := func(h *qcow2.Header) { h.AutoclearFeatures = 0 }
	autoclear := spot{problem.BitmapsStale, qcow2.FieldAutoclearFeatures, 8}
	m := newBitmapImage(t, stale, func(m *bitmapImage) {
		m.drop(m.bitmaps[0].table[0])
		m.drop(uint64(m.bitmaps[0].TableOffset))
	}, newBitmap("a", auto))
	assertFindings(t, m.testImage, autoclear)

	m = newBitmapImage(t, stale, func(m *bitmapImage) {
		addSnapshots(m.testImage, 1, nil)
		table := make([]byte, 512)
		m.copyOut(table, int64(m.h.SnapshotsOffset))
		m.drop(uint64(m.h.SnapshotsOffset))
		m.h.SnapshotsOffset = qcow2.HostOffset(m.bitmaps[0].table[0])
		m.write(m.h.SnapshotsOffset, table)
	}, newBitmap("a", auto))
	assertFindings(t, m.testImage, autoclear)

	m = newBitmapImage(t, stale, func(m *bitmapImage) { m.alloc(512) }, newBitmap("a", auto))
	lost := m.blocks + qcow2.HostOffset((m.next-1)*2)
	assertFindings(t, m.testImage, autoclear, spot{problem.RefcountTooHigh, lost, 2})
}
