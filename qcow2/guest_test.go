package qcow2_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// memSource is a source in memory that counts how often it was closed.
type memSource struct {
	data   []byte
	closed int
}

func (s *memSource) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(s.data).ReadAt(p, off)
}
func (s *memSource) Size() int64  { return int64(len(s.data)) }
func (s *memSource) Close() error { s.closed++; return nil }

// memSourceOf is a memFile as a source.
type memSourceOf struct{ *memFile }

func (s memSourceOf) Size() int64 { return s.size }

func mapOf(t testing.TB, d *qcow2.Disk, from, to qcow2.GuestOffset) (extents []qcow2.GuestExtent, problems []qcow2.GuestProblem) {
	t.Helper()
	for x, err := range d.Map(from, to) {
		var ge *qcow2.GuestError
		if err != nil {
			require.ErrorAs(t, err, &ge)
			assert.Equal(t, x.Start, ge.Start)
			assert.Equal(t, x.Length, ge.Length)
			problems = append(problems, ge.Problem)
		} else {
			problems = append(problems, 0)
		}
		extents = append(extents, x)
	}
	return extents, problems
}

func TestMapGoesOnBehindErrors(t *testing.T) {
	const cs = 65536
	m := newGuestImage(qcow2.Header{})
	at := m.add(m.cluster(1))
	m.add(m.cluster(2))
	m.set(0, qcow2.NewL2Entry(at, true, false))
	m.set(1, qcow2.NewL2Entry(at+cs, true, false))
	m.set(2, qcow2.NewL2Entry(at+512, true, false))
	m.set(3, qcow2.NewL2Entry(at+512, true, false))
	m.set(4, qcow2.NewL2Entry(0, false, true))
	m.set(5, qcow2.NewL2Entry(at, false, true))
	d := m.disk(t, qcow2.DiskOptions{})
	extents, problems := mapOf(t, d, 100, 8*cs)
	l2 := qcow2.HostOffset(guestL2 * cs)
	assert.Equal(t, []qcow2.GuestExtent{
		{Start: 100, Length: 2*cs - 100, Kind: qcow2.GuestData, HasHost: true, Host: at + 100},
		{Start: 2 * cs, Length: cs, Host: l2 + 16},
		{Start: 3 * cs, Length: cs, Host: l2 + 24},
		{Start: 4 * cs, Length: cs, Kind: qcow2.GuestZero},
		{Start: 5 * cs, Length: cs, Kind: qcow2.GuestZero, HasHost: true, Host: at},
		{Start: 6 * cs, Length: 2 * cs},
	}, extents)
	assert.Equal(t, []qcow2.GuestProblem{0, qcow2.ProblemL2Entry, qcow2.ProblemL2Entry, 0, 0, 0}, problems)

	b := make([]byte, 4*cs)
	n, err := d.ReadAt(b, 100)
	assert.Equal(t, 2*cs-100, n)
	var ge *qcow2.GuestError
	require.ErrorAs(t, err, &ge)
	assert.Equal(t, qcow2.GuestError{Problem: qcow2.ProblemL2Entry, Start: 2 * cs, Length: cs, Host: l2 + 16}, *ge)
	assert.Equal(t, append(bytes.Repeat([]byte{1}, cs-100), m.cluster(2)...), b[:n])
}

func TestGuestReadErrors(t *testing.T) {
	const cs = 65536
	for _, tc := range []struct {
		name    string
		bad     func(data qcow2.HostOffset) qcow2.HostOffset
		start   qcow2.GuestOffset
		problem qcow2.GuestProblem
	}{
		{"L1 table", func(qcow2.HostOffset) qcow2.HostOffset { return guestL1 * cs }, 0, qcow2.ProblemUnreadable},
		{"L2 table", func(qcow2.HostOffset) qcow2.HostOffset { return guestL2*cs + 700 }, 0, qcow2.ProblemUnreadable},
		{"data", func(at qcow2.HostOffset) qcow2.HostOffset { return at + 5 }, cs, qcow2.ProblemUnreadable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newGuestImage(qcow2.Header{})
			at := m.add(m.cluster(1))
			m.set(1, qcow2.NewL2Entry(at, true, false))
			d := m.disk(t, qcow2.DiskOptions{})
			m.file.bad = []qcow2.Extent{{Offset: tc.bad(at), Length: 1}}
			_, err := d.ReadAt(make([]byte, 2*cs), 0)
			var ge *qcow2.GuestError
			require.ErrorAs(t, err, &ge)
			assert.Equal(t, tc.problem, ge.Problem)
			assert.Equal(t, tc.start, ge.Start)
			require.ErrorIs(t, err, errBadSector)
		})
	}
	t.Run("compressed data", func(t *testing.T) {
		m := newGuestImage(qcow2.Header{})
		m.set(0, m.addCompressed(deflate(t, m.cluster(1))))
		d := m.disk(t, qcow2.DiskOptions{})
		m.file.bad = []qcow2.Extent{{Offset: m.next - cs, Length: 1}}
		_, err := d.ReadAt(make([]byte, 1), 0)
		require.ErrorIs(t, err, errBadSector)
		m.file.bad = nil
		b := make([]byte, 1)
		_, err = d.ReadAt(b, 0)
		require.NoError(t, err, "an error is not remembered")
		assert.Equal(t, []byte{1}, b)
	})
	t.Run("unaligned L1 table", func(t *testing.T) {
		m := newGuestImage(qcow2.Header{})
		m.file.parts[0][qcow2.FieldL1TableOffset+6] = 0x10
		d := m.disk(t, qcow2.DiskOptions{})
		_, problems := mapOf(t, d, 0, qcow2.GuestOffset(d.Size()))
		assert.Equal(t, []qcow2.GuestProblem{qcow2.ProblemL1Table}, problems)
	})
	t.Run("unknown compression type", func(t *testing.T) {
		m := newGuestImage(qcow2.Header{CompressionType: 7})
		m.set(0, m.addCompressed(deflate(t, m.cluster(1))))
		_, err := m.disk(t, qcow2.DiskOptions{}).ReadAt(make([]byte, 1), 0)
		require.ErrorIs(t, err, qcow2.ErrCompressionType)
	})
	t.Run("no geometry", func(t *testing.T) {
		img := newFile(qcow2.Header{ClusterBits: 40}, 4096).open(t)
		_, err := img.ActiveDisk(qcow2.DiskOptions{})
		require.ErrorIs(t, err, qcow2.ErrGeometry)
		img = newFile(qcow2.Header{ClusterBits: 12, IncompatibleFeatures: qcow2.IncompatExtendedL2}, 4096).open(t)
		_, err = img.SnapshotDisk(&qcow2.Snapshot{}, qcow2.DiskOptions{})
		require.ErrorIs(t, err, qcow2.ErrGeometry)
	})
}

func TestDiskSizes(t *testing.T) {
	for _, tc := range []struct {
		header   uint64
		snapshot uint64 // 0: not recorded
		active   int64
		ofSnap   int64
	}{
		{0, 0, 0, 0},
		{1000, 0, 512, 512},
		{1 << 30, 1<<20 + 1, 1 << 30, 1 << 20},
		{math.MaxUint64, math.MaxUint64, math.MaxInt64 - 511, math.MaxInt64 - 511},
	} {
		img := newFile(qcow2.Header{Size: tc.header}, 4096).open(t)
		d, err := img.ActiveDisk(qcow2.DiskOptions{})
		require.NoError(t, err)
		assert.Equal(t, tc.active, d.Size())
		var s qcow2.Snapshot
		if tc.snapshot != 0 {
			s.SetExtra(math.MaxUint64, tc.snapshot)
		}
		d, err = img.SnapshotDisk(&s, qcow2.DiskOptions{})
		require.NoError(t, err)
		assert.Equal(t, tc.ofSnap, d.Size())
		assert.GreaterOrEqual(t, d.VMState().Size(), int64(0), "a claim of 2^64 bytes of VM state does no harm")
	}
}

// TestVMStateOfSnapshot is the state of a virtual machine without one: the
// second entry of a snapshot's L1 table, behind the one that its disk takes.
func TestVMStateOfSnapshot(t *testing.T) {
	const cs = 65536
	m := newGuestImage(qcow2.Header{Size: 3 * cs})
	state := m.add(text(1, cs))
	l2 := m.add(words(uint64(qcow2.NewL2Entry(state, true, false))))
	l1 := m.add(words(0, uint64(qcow2.NewL1Entry(l2, true))))
	s := &qcow2.Snapshot{L1TableOffset: l1, L1Size: 2}
	s.SetExtra(cs+1000, 2*cs)
	d, err := m.file.open(t).SnapshotDisk(s, qcow2.DiskOptions{})
	require.NoError(t, err)
	assert.EqualValues(t, 2*cs, d.Size())
	off, ok := d.VMStateOffset()
	assert.True(t, ok)
	assert.EqualValues(t, 8192*cs, off)
	got, err := io.ReadAll(d.VMState())
	require.NoError(t, err)
	assert.Equal(t, append(text(1, cs), make([]byte, 1000)...), got)

	active := m.disk(t, qcow2.DiskOptions{})
	assert.Zero(t, active.VMState().Size())
}

// withBacking makes an image whose backing file has the given name and format.
func withBacking(name, format string) *guestImage {
	m := newGuestImage(qcow2.Header{BackingFileOffset: 4096, BackingFileSize: uint32(len(name))})
	head := make([]byte, 4096+len(name))
	copy(head, m.file.parts[0])
	if format != "" {
		copy(head[qcow2.HeaderLengthCompression:], qcow2.EncodeExtension(qcow2.ExtBackingFormat, []byte(format)))
	}
	copy(head[4096:], name)
	m.file.parts[0] = head
	return m
}

func TestBackingFiles(t *testing.T) {
	const cs = 65536
	raw := text(1, cs+1000)
	notQcow2 := &memSource{data: raw}
	child := withBacking("raw", "raw")
	child.set(1, qcow2.NewL2Entry(0, false, true))
	loop := withBacking("loop", "qcow2")
	outside := newGuestImage(qcow2.Header{BackingFileOffset: 65530, BackingFileSize: 10})
	files := qcow2.Files{
		MaxDepth: 3,
		Open: func(from, name string) (qcow2.Source, string, error) {
			switch name {
			case "raw":
				return notQcow2, name, nil
			case "child":
				return memSourceOf{child.file}, name, nil
			case "loop":
				return memSourceOf{loop.file}, name, nil
			case "deeper": // ever new files, so that nothing can be recognised as met before
				return memSourceOf{withBacking("deeper", "qcow2").file}, from + "/x", nil
			}
			return nil, "", errors.New("no such file")
		},
	}
	for _, tc := range []struct {
		name    string
		backing string
		format  string
		want    []byte
		err     error
	}{
		{name: "raw", backing: "raw", format: "raw", want: raw},
		{name: "probed as raw", backing: "raw", want: raw},
		{name: "qcow2", backing: "child", format: "qcow2", want: raw[:cs]},
		{name: "probed as qcow2", backing: "child", want: raw[:cs]},
		{name: "qcow2 taken for raw", backing: "child", format: "raw", want: child.file.parts[0]},
		{name: "raw taken for qcow2", backing: "raw", format: "qcow2", err: qcow2.ErrNotQcow2},
		{name: "vmdk", backing: "raw", format: "vmdk", err: qcow2.ErrBackingFormat},
		{name: "loop", backing: "loop", format: "qcow2", err: qcow2.ErrBackingLoop},
		{name: "without end", backing: "deeper", format: "qcow2", err: qcow2.ErrBackingDepth},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := withBacking(tc.backing, tc.format).disk(t, files.DiskOptions("top"))
			got := make([]byte, 3*cs)
			_, err := d.ReadAt(got, 0)
			if tc.err != nil {
				var ge *qcow2.GuestError
				require.ErrorAs(t, err, &ge)
				assert.Equal(t, qcow2.ProblemBackingFile, ge.Problem)
				require.ErrorIs(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.want, got[:len(tc.want)])
			if tc.format != "raw" || tc.backing == "raw" {
				assert.Equal(t, make([]byte, 3*cs-len(tc.want)), got[len(tc.want):])
			}
			before := notQcow2.closed
			require.NoError(t, d.Close())
			if tc.backing == "raw" || tc.format != "raw" {
				assert.Equal(t, before+1, notQcow2.closed)
			}
		})
	}
	t.Run("no opener", func(t *testing.T) {
		_, err := withBacking("raw", "raw").disk(t, qcow2.DiskOptions{}).ReadAt(make([]byte, 1), 0)
		require.ErrorIs(t, err, qcow2.ErrNotGiven)
	})
	t.Run("name outside of the first cluster", func(t *testing.T) {
		_, err := outside.disk(t, files.DiskOptions("top")).ReadAt(make([]byte, 1), 0)
		require.ErrorIs(t, err, qcow2.ErrBackingName)
	})
	t.Run("closed before it was opened", func(t *testing.T) {
		d := withBacking("raw", "raw").disk(t, files.DiskOptions("top"))
		require.NoError(t, d.Close())
		_, err := d.ReadAt(make([]byte, 1), 0)
		require.ErrorIs(t, err, qcow2.ErrNotGiven)
	})
}

// TestDataFileClusterLikeQEMU is about entries that name a place in an external
// data file.
func TestDataFileClusterLikeQEMU(t *testing.T) {
	const cs = 65536
	data := text(1, 3*cs)
	dir := t.TempDir()
	for _, tc := range []struct {
		name  string
		entry qcow2.L2Entry // of the first cluster
		fails qcow2.GuestProblem
		want  []byte
	}{
		{name: "COPIED at offset 0", entry: qcow2.NewL2Entry(0, true, false), want: data[:cs]},
		{name: "offset 0", entry: 0, want: make([]byte, cs)},
		{name: "zero and COPIED at offset 0", entry: qcow2.NewL2Entry(0, true, true), want: make([]byte, cs)},
		{name: "another offset", entry: qcow2.NewL2Entry(cs, true, false), fails: qcow2.ProblemDataFileOffset},
		{name: "compressed", entry: 1 << 62, fails: qcow2.ProblemCompressedDataFile},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newGuestImage(qcow2.Header{IncompatibleFeatures: qcow2.IncompatDataFile})
			m.file.parts[0] = append(m.file.parts[0], qcow2.EncodeExtension(qcow2.ExtDataFile, []byte("data"))...)
			m.set(0, tc.entry)
			opts := qcow2.DiskOptions{DataFile: func(name, format string) (qcow2.Source, error) {
				assert.Equal(t, "data", name)
				assert.Equal(t, qcow2.FormatRaw, format)
				return &memSource{data: data}, nil
			}}
			got := make([]byte, cs)
			_, err := m.disk(t, opts).ReadAt(got, 0)
			var ge *qcow2.GuestError
			if tc.fails != 0 {
				require.ErrorAs(t, err, &ge)
				assert.Equal(t, tc.fails, ge.Problem)
			} else {
				require.NoError(t, err)
				assert.Equal(t, tc.want, got)
			}

			qemutest.Require(t)
			path := m.write(t)
			dataPath := filepath.Join(dir, "data")
			require.NoError(t, writeFile(dataPath, data))
			out := filepath.Join(t.TempDir(), "cluster.raw")
			res := qemutest.Run(t, qemutest.QemuImg, "convert", "-O", "raw", "--image-opts",
				"driver=qcow2,file.filename="+path+",data-file.driver=file,data-file.filename="+dataPath, out)
			if tc.fails != 0 {
				assert.Contains(t, res.Stderr, "nput/output error")
				return
			}
			require.Zero(t, res.RC, "%v", res)
			assert.Equal(t, tc.want, readFile(t, out)[:cs])
		})
	}
}

// TestHostileImagesAreCheap reads images that claim much and hold little.
func TestHostileImagesAreCheap(t *testing.T) {
	const cs = 65536
	t.Run("an L1 table of one L2 table, again and again", func(t *testing.T) {
		m := newGuestImage(qcow2.Header{Size: math.MaxInt64})
		for i := range 8192 {
			m.set(i, qcow2.NewL2Entry(0, false, true))
		}
		l1 := bytes.Repeat(words(uint64(qcow2.NewL1Entry(guestL2*cs, false))), 1<<16)
		at := m.add(l1)
		copy(m.file.parts[0][qcow2.FieldL1TableOffset:], words(uint64(at)))
		copy(m.file.parts[0][qcow2.FieldL1Size:], []byte{0, 1, 0, 0})
		d := m.disk(t, qcow2.DiskOptions{})
		m.file.read.Store(0)
		n, end := 0, qcow2.GuestOffset(0)
		for x, err := range d.Map(0, math.MaxInt64) {
			require.NoError(t, err)
			assert.Equal(t, qcow2.GuestZero, x.Kind)
			end = x.Start + qcow2.GuestOffset(x.Length)
			if n++; n == 3 {
				break
			}
		}
		assert.Less(t, end, qcow2.GuestOffset(4000)*8192*cs, "who reads a map can stop it")
		assert.Less(t, m.file.read.Load(), int64(1<<20), "a table that was just read is not read again")
	})
	t.Run("8 EiB of holes", func(t *testing.T) {
		f := newFile(qcow2.Header{
			Size: math.MaxInt64, L1Size: math.MaxUint32, L1TableOffset: cs,
		}, math.MaxInt64)
		d, err := f.open(t).ActiveDisk(qcow2.DiskOptions{})
		require.NoError(t, err)
		f.read.Store(0)
		extents, _ := mapOf(t, d, 0, math.MaxUint64)
		assert.Equal(t, []qcow2.GuestExtent{{Length: math.MaxUint64}}, extents)
		assert.Zero(t, f.read.Load())
	})
	t.Run("tables in memory are bounded", func(t *testing.T) {
		const tables = 1000
		m := newGuestImage(qcow2.Header{ClusterBits: 12, Size: math.MaxInt64})
		l2 := bytes.Repeat(words(uint64(qcow2.NewL2Entry(0, false, true))), 512)
		var l1 []uint64
		for range tables {
			l1 = append(l1, uint64(qcow2.NewL1Entry(m.add(l2), true)))
		}
		at := m.add(words(l1...))
		copy(m.file.parts[0][qcow2.FieldL1TableOffset:], words(uint64(at)))
		copy(m.file.parts[0][qcow2.FieldL1Size:], []byte{0, 0, tables >> 8, tables & 255})
		d := m.disk(t, qcow2.DiskOptions{TableCache: 100_000})
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		extents, _ := mapOf(t, d, 0, tables*512*4096)
		runtime.GC()
		runtime.ReadMemStats(&after)
		assert.Equal(t, []qcow2.GuestExtent{{Length: tables * 512 * 4096, Kind: qcow2.GuestZero}}, extents)
		assert.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(1<<20))
		runtime.KeepAlive(d)
	})
	t.Run("zstd frames that claim much", func(t *testing.T) {
		dst := make([]byte, cs)
		var before, after runtime.MemStats
		require.ErrorIs(t, qcow2.Decompress(qcow2.CompressionZstd, dst, []byte("x")), qcow2.ErrCompressedData)
		runtime.ReadMemStats(&before)
		for _, frame := range []string{
			"\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\x00\x01\x00\x00", // one segment of 2^56
			"\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x08\x01\x00\x00",                 // one segment of 2^27
			"\x28\xb5\x2f\xfd\x00\xff\x01\x00\x00",                             // window of 3.75 TiB
			"\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00",                             // window of 2^27
			"\x28\xb5\x2f\xfd\x00\x88\xfb\xff\xff\x00",                         // a block of 2 MiB, all the same
			"\x50\x2a\x4d\x18\xff\xff\xff\xff",                                 // 4 GiB to skip
		} {
			require.ErrorIs(t, qcow2.Decompress(qcow2.CompressionZstd, dst, []byte(frame)), qcow2.ErrCompressedData)
		}
		runtime.ReadMemStats(&after)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
	})
}

func TestDiskConcurrently(t *testing.T) {
	const cs = 65536
	m := newGuestImage(qcow2.Header{})
	want := make([]byte, 32*cs)
	for i := range 32 {
		part := want[i*cs:][:cs]
		copy(part, text(uint64(i), cs))
		if i%2 == 0 {
			m.set(i, m.addCompressed(deflate(t, part)))
		} else {
			m.set(i, qcow2.NewL2Entry(m.add(part), true, false))
		}
	}
	// A cache of nothing, so that readers keep pushing each other's tables out.
	d := m.disk(t, qcow2.DiskOptions{TableCache: 1})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for at := i * 1000; at < len(want); at += 50000 {
				b := make([]byte, 70000)
				n, err := d.ReadAt(b, int64(at))
				if err != nil && err != io.EOF || !bytes.Equal(want[at:at+n], b[:n]) {
					t.Errorf("at %d: %d bytes, %v", at, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
