package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

func TestBitmapTables(t *testing.T) {
	t.Parallel()
	// All damage is done to the table of the second bitmap, "bb": entries 0 and
	// 2 name clusters, entry 1 stands for ones.
	set := func(i int, change func(uint64) uint64) func(*bitmapImage) {
		return func(m *bitmapImage) { m.bitmaps[1].table[i] = change(m.bitmaps[1].table[i]) }
	}
	or := func(mask uint64) func(uint64) uint64 { return func(e uint64) uint64 { return e | mask } }
	is := func(code problem.Code, i int) func(*bitmapImage) []spot { return one(code, tableEntry(1, i), 8) }
	cases := []bitmapCase{
		{name: "bit 1", edit: set(0, or(2)), states: "eud", want: is(problem.BitmapLowReserved, 0)},
		{name: "bit 8", edit: set(2, or(0x100)), states: "eud", want: is(problem.BitmapLowReserved, 2)},
		{name: "bit 8 of an entry of ones", edit: set(1, or(0x100)), states: "eud", want: is(problem.BitmapLowReserved, 1)},
		{name: "bit 63", edit: set(0, or(1<<63)), states: "eud", want: is(problem.BitmapHighReserved, 0)},
		{name: "bit 56", edit: set(2, or(1<<56)), states: "eud", want: is(problem.BitmapHighReserved, 2)},
		{name: "both reserved fields", edit: set(0, or(1<<56|4)), states: "eud", want: func(m *bitmapImage) []spot {
			return []spot{{problem.BitmapLowReserved, m.entryAt(1, 0), 8}, {problem.BitmapHighReserved, m.entryAt(1, 0), 8}}
		}},
		{name: "a run of reserved bits", states: "eud", edit: func(m *bitmapImage) {
			m.drop(m.bitmaps[1].table[0])
			m.drop(m.bitmaps[1].table[2])
			m.bitmaps[1].table = []uint64{3, 3, 3}
		}, want: one(problem.BitmapLowReserved, tableEntry(1, 0), 24)},
		{name: "ones and an offset", edit: set(2, or(1)), states: "eud", want: is(problem.BitmapEntryContradiction, 2)},
		{name: "ones and the offset of the header", edit: set(1, or(1<<9)), states: "eud", want: is(problem.BitmapEntryContradiction, 1)},
		{name: "past the end", edit: set(1, func(uint64) uint64 { return 1 << 40 }), states: "eud", doubts: 1, want: is(problem.BitmapEntryPastEnd, 1)},
		{name: "far past the end", edit: set(1, func(uint64) uint64 { return 0xff_ffff_ffff_fe00 }), states: "eud", doubts: 1, want: is(problem.BitmapEntryPastEnd, 1)},
		{name: "faults in one in use", flags: inUse, edit: func(m *bitmapImage) { m.bitmaps[2].table[0] |= 2 }, states: "edi", worst: problem.Corruption,
			want: func(m *bitmapImage) []spot {
				return []spot{{problem.BitmapLowReserved, m.entryAt(2, 0), 8}, {problem.BitmapInUse, m.at(2, 12), 4}}
			}},
		{name: "faults in stale ones", header: func(h *qcow2.Header) { h.AutoclearFeatures = 0 }, edit: set(0, or(2)), states: "uuu", worst: problem.Leak,
			want: func(m *bitmapImage) []spot {
				return []spot{{problem.BitmapLowReserved, m.entryAt(1, 0), 8}, {problem.BitmapsStale, qcow2.FieldAutoclearFeatures, 8}}
			}},

		{name: "the same cluster twice", edit: func(m *bitmapImage) {
			b := m.bitmaps[1]
			m.refs[m.g.HostCluster(qcow2.HostOffset(b.table[0]))]++
			b.table[1] = b.table[0]
		}, states: "eud", want: is(problem.BitmapOverlap, 1)},
		{name: "a cluster of another bitmap", edit: func(m *bitmapImage) {
			m.refs[m.g.HostCluster(qcow2.HostOffset(m.bitmaps[0].table[2]))]++
			m.bitmaps[1].table[1] = m.bitmaps[0].table[2]
		}, states: "uud", want: is(problem.BitmapOverlap, 1)},
		{name: "a cluster of another bitmap's table", edit: func(m *bitmapImage) {
			m.refs[m.g.HostCluster(m.bitmaps[2].TableOffset)]++
			m.bitmaps[1].table[1] = uint64(m.bitmaps[2].TableOffset)
		}, states: "eud", want: is(problem.BitmapOverlap, 1)},
		{name: "its own table", edit: func(m *bitmapImage) {
			m.refs[m.g.HostCluster(m.bitmaps[1].TableOffset)]++
			m.bitmaps[1].table[1] = uint64(m.bitmaps[1].TableOffset)
		}, states: "eud", want: is(problem.BitmapOverlap, 1)},
		{name: "the directory", edit: func(m *bitmapImage) {
			m.refs[m.g.HostCluster(m.ext.DirectoryOffset)]++
			m.bitmaps[1].table[1] = uint64(m.ext.DirectoryOffset)
		}, states: "eud", want: is(problem.BitmapOverlap, 1)},
		{name: "the L1 table", edit: func(m *bitmapImage) {
			m.refs[m.g.HostCluster(m.h.L1TableOffset)]++
			m.bitmaps[1].table[1] = uint64(m.h.L1TableOffset)
		}, states: "eud", doubts: 1, want: is(problem.BitmapOverlap, 1)},
		{name: "the same table, refcounts say so", edit: func(m *bitmapImage) {
			b, c := m.bitmaps[1], m.bitmaps[2]
			for _, o := range []uint64{uint64(c.TableOffset), c.table[0], c.table[2]} {
				m.drop(o)
			}
			for _, o := range []uint64{uint64(b.TableOffset), b.table[0], b.table[2]} {
				m.refs[m.g.HostCluster(qcow2.HostOffset(o))]++
			}
			c.TableOffset, c.table = b.TableOffset, b.table
		}, states: "euu", want: one(problem.BitmapOverlap, entryField(2, 0), 8)},
		{name: "a table in the directory", edit: func(m *bitmapImage) { m.bitmaps[1].TableOffset = m.ext.DirectoryOffset }, states: "eud", doubts: 2, unowned: true,
			want: func(m *bitmapImage) []spot {
				return []spot{{problem.BitmapOverlap, entryField(1, 0)(m), 8}, {problem.BitmapTableElsewhere, entryField(1, 0)(m), 8}}
			}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "a table in the directory" {
				// The table is written before the directory's fields are settled.
				edit := c.edit
				c.edit, c.damage = nil, func(m *bitmapImage) {
					edit(m)
					m.write(m.at(1, 0), binary.BigEndian.AppendUint64(nil, uint64(m.bitmaps[1].TableOffset)))
				}
			}
			c.run(t)
		})
	}
}

// A misaligned offset leads to no cluster, but to the one that it lies in: that
// one is not called a leak.
func TestBitmapTableMisaligned(t *testing.T) {
	t.Parallel()
	m := newBitmapImage(t, func(h *qcow2.Header) { h.ClusterBits, h.Size = 16, 64<<20 }, nil, &testBitmap{
		BitmapEntry: qcow2.BitmapEntry{Name: []byte("b"), Type: 1, GranularityBits: 16}, data: [][]byte{{1}},
	})
	m.flip(m.entryAt(0, 0)+6, 0x10)
	r := assertFindings(t, m.testImage, spot{problem.BitmapEntryUnaligned, m.entryAt(0, 0), 8})
	assert.Equal(t, BitmapUnusable, r.res.Bitmaps[0].State)
	assert.NotEmpty(t, r.doubts)
}

// A table that holds something else is one piece of news, and what it seems to
// name is not claimed.
func TestBitmapTableOverwritten(t *testing.T) {
	t.Parallel()
	b := newBitmap("b", 0)
	b.GranularityBits = 9
	b.data = make([][]byte, 40)
	m := newBitmapImage(t, func(h *qcow2.Header) { h.Size = 512 * 8 * 512 * 40 }, func(m *bitmapImage) {}, b)
	assertFindings(t, m.testImage)
	m.write(b.TableOffset, bytes.Repeat([]byte("guest data, not a table. "), 12))
	r := assertFindings(t, m.testImage, spot{problem.BitmapEntryContradiction, b.TableOffset, 320})
	assert.Len(t, r.doubts, 1)
	assert.Equal(t, BitmapUnusable, r.res.Bitmaps[0].State)
	assert.Empty(t, claimsOf(r, problem.StructBitmapData))
}

func TestBitmapTail(t *testing.T) {
	t.Parallel()
	// The last cluster has 3 bits: byte 0 up to bit 2.
	last := func(m *bitmapImage) qcow2.HostOffset { return qcow2.HostOffset(m.bitmaps[0].table[2]) }
	for _, c := range []struct {
		name string
		data []byte
		from qcow2.HostOffset // into the cluster
		n    uint64           // 0: sound
	}{
		{"all bits", []byte{7}, 0, 0},
		{"the next bit", []byte{8}, 0, 1},
		{"the last of the byte", []byte{0x85}, 0, 1},
		{"the next byte", []byte{5, 1}, 1, 1},
		{"some bytes", []byte{5, 0, 0, 9, 0, 0, 1}, 3, 4},
		{"the last bit of the cluster", append(make([]byte, 511), 0x80), 511, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newBitmapImage(t, nil, nil, newBitmap("b", auto))
			m.write(last(m), append(c.data, make([]byte, 512-len(c.data))...))
			var want []spot
			if c.n > 0 {
				want = []spot{{problem.BitmapTrailingBits, last(m) + c.from, c.n}}
			}
			r := assertFindings(t, m.testImage, want...)
			assert.Equal(t, BitmapEnabled, r.res.Bitmaps[0].State)
		})
	}
	t.Run("in use", func(t *testing.T) {
		m := newBitmapImage(t, nil, nil, newBitmap("b", inUse))
		m.write(last(m)+1, []byte{1})
		assertFindings(t, m.testImage, spot{problem.BitmapInUse, m.at(0, 12), 4})
	})
	t.Run("unreadable", func(t *testing.T) {
		m := newBitmapImage(t, nil, nil, newBitmap("b", auto))
		m.bad = append(m.bad, at(last(m)+100, 1))
		r := m.inspect(t, Options{})
		require.Len(t, r.res.Findings, 1)
		assert.Equal(t, problem.BitmapDataUnreadable, r.res.Findings[0].Code)
		assert.Equal(t, BitmapUnusable, r.res.Bitmaps[0].State)
	})
	t.Run("a sector that is cut", func(t *testing.T) {
		// QEMU has no bit for the last 100 bytes of the disk, the format has.
		m := newBitmapImage(t, func(h *qcow2.Header) { h.Size += 100 }, nil, newBitmap("b", auto))
		m.write(last(m), []byte{8})
		assertFindings(t, m.testImage)
		m.write(last(m), []byte{16})
		assertFindings(t, m.testImage, spot{problem.BitmapTrailingBits, last(m), 1})
	})
}

func TestBitmapData(t *testing.T) {
	t.Parallel()
	b := newBitmap("b", auto)
	b.data = [][]byte{bytes.Repeat([]byte{0xff}, 512), {0}, {1}, {0}, {0}, bytes.Repeat([]byte{0xff}, 512), {7}}
	m := newBitmapImage(t, func(h *qcow2.Header) { h.Size = 6*512*8*512 + 3*512 }, nil, b, newBitmap("used", inUse))
	cluster := func(i int) qcow2.HostOffset { return qcow2.HostOffset(b.table[i]) }
	m.drop(uint64(m.bitmaps[1].TableOffset)) // not read: its bitmap is in use, and has another size
	m.refs[m.g.HostCluster(m.bitmaps[1].TableOffset)]++
	ofData := func(o Options) []spot {
		var got []spot
		for _, f := range m.inspect(t, o).res.Findings {
			if f.Structure == problem.StructBitmapData {
				got = append(got, spot{f.Code, f.Extent.Offset, f.Extent.Length})
			}
		}
		return got
	}
	assert.Empty(t, ofData(Options{}), "data is read on demand only")
	for _, holes := range []bool{true, false} {
		m.holing = holes
		assert.Equal(t, []spot{
			{problem.BitmapDataUniform, cluster(0), 512}, {problem.BitmapDataUniform, cluster(1), 512}, {problem.BitmapDataUniform, cluster(3), 1024}, {problem.BitmapDataUniform, cluster(5), 512}, // the last one does not fill its word
		}, ofData(Options{BitmapData: true}))
	}
	m.bad = append(m.bad, at(cluster(2)+7, 1))
	assert.Contains(t, ofData(Options{BitmapData: true}), spot{problem.BitmapDataUnreadable, cluster(2), 512})
}

// runBounded runs the pass alone; it must end in a time that even a busy machine
// keeps, having read no more than limit bytes.
func runBounded(t *testing.T, m *testImage, limit int64, opts Options) *run {
	t.Helper()
	img, err := qcow2.Open(m.sparseFile, m.size)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := newRun(ctx, img, opts)
	before := m.read
	require.NoError(t, c.checkBitmaps())
	assert.Less(t, m.read-before, limit)
	c.res.Findings = c.Collector.Findings()
	return c
}

// 65,535 bitmaps with one name and one table, of as many entries as a table can
// have in 128 MiB of data: it is read once.
func TestManyBitmapsOneTable(t *testing.T) {
	if testing.Short() {
		t.Skip("a second of work, fifteen with the race detector")
	}
	t.Parallel()
	m := newTestImage(t, func(h *qcow2.Header) {
		h.ClusterBits, h.AutoclearFeatures = 9, qcow2.AutoclearBitmaps
	})
	const entries = 1 << 18
	m.h.Size = entries * 512 * 8 * 512
	e := qcow2.BitmapEntry{TableOffset: 1 << 30, TableSize: entries, Type: 1, GranularityBits: 9, Name: []byte("n")}
	table := make([]byte, entries*8)
	for i := range entries {
		binary.BigEndian.PutUint64(table[i*8:], 2<<30|uint64(i%3)<<20)
	}
	directory := bytes.Repeat(e.Encode(), qcow2.MaxBitmaps)
	ext := qcow2.BitmapsExtension{NbBitmaps: qcow2.MaxBitmaps, DirectorySize: uint64(len(directory)), DirectoryOffset: 1 << 29}
	m.write(ext.DirectoryOffset, directory)
	m.write(e.TableOffset, table)
	m.size = 4 << 30
	m.setExtension(qcow2.ExtBitmaps, ext.Encode())
	m.writeHeader()
	r := runBounded(t, m, int64(3*(len(table)+len(directory))), Options{MaxFindings: 5, BitmapData: true})
	assert.Len(t, r.res.Bitmaps, qcow2.MaxBitmaps)
	counts := map[problem.Code]uint64{}
	for _, f := range r.res.Findings {
		counts[f.Code] += f.Count
	}
	assert.EqualValues(t, qcow2.MaxBitmaps-1, counts[problem.BitmapNameDuplicate])
	assert.EqualValues(t, (qcow2.MaxBitmaps-1)*entries*8/512+entries-3, counts[problem.BitmapOverlap])
}

// Tables that overlap each other by all but a cluster are not read over and over.
func TestManyTablesOverlapping(t *testing.T) {
	t.Parallel()
	const entries = 1 << 18
	n := 16384
	if testing.Short() {
		n = 1024
	}
	m := newTestImage(t, func(h *qcow2.Header) {
		h.ClusterBits, h.AutoclearFeatures = 9, qcow2.AutoclearBitmaps
	})
	m.h.Size = entries * 512 * 8 * 512
	var directory []byte
	for i := range n {
		e := qcow2.BitmapEntry{
			TableOffset: 1<<30 + qcow2.HostOffset((i*7919%n)*512), TableSize: entries, Type: 1, GranularityBits: 9,
			Name: binary.BigEndian.AppendUint32([]byte("n"), uint32(i)|0x40404040), Flags: inUse,
		}
		directory = append(directory, e.Encode()...)
	}
	ext := qcow2.BitmapsExtension{NbBitmaps: uint32(n), DirectorySize: uint64(len(directory)), DirectoryOffset: 1 << 29}
	m.write(ext.DirectoryOffset, directory)
	m.write(1<<30, bytes.Repeat([]byte{0, 0, 0, 0, 0x80, 0, 0, 0}, n*64))
	m.size = 4 << 30
	m.setExtension(qcow2.ExtBitmaps, ext.Encode())
	m.writeHeader()
	r := runBounded(t, m, int64(n*512*4)+1<<22, Options{MaxFindings: 5})
	assert.Len(t, r.res.Bitmaps, n)
}

// A table of as many entries as QEMU takes, over a hole, costs nothing.
func TestTableOverHole(t *testing.T) {
	t.Parallel()
	m := newTestImage(t, func(h *qcow2.Header) { h.AutoclearFeatures = qcow2.AutoclearBitmaps })
	e := qcow2.BitmapEntry{TableOffset: 1 << 40, TableSize: qcow2.MaxBitmapTableEntries, Type: 1, GranularityBits: 9, Name: []byte("n"), Flags: inUse}
	ext := qcow2.BitmapsExtension{NbBitmaps: 1, DirectorySize: 32, DirectoryOffset: m.put(e.Encode())}
	m.setExtension(qcow2.ExtBitmaps, ext.Encode())
	m.finish()
	m.size = 1 << 62
	r := runBounded(t, m, 1<<20, Options{})
	assertSpots(t, []spot{{problem.BitmapTableSize, ext.DirectoryOffset + 8, 4}, {problem.BitmapInUse, ext.DirectoryOffset + 12, 4}}, r.res.Findings)
}

func TestBitmapsCancelled(t *testing.T) {
	t.Parallel()
	m := newBitmapImage(t, nil, nil, newBitmap("a", auto))
	img, err := qcow2.Open(m.sparseFile, m.size)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, newRun(ctx, img, Options{}).checkBitmaps(), context.Canceled)
}
