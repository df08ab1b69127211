package check_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// hostile is an image that is made to make a reader run, or grow, for ever.
type hostile struct {
	*corpus.Store
	h    qcow2.Header
	exts []byte
}

func newHostile(clusterBits uint32, size int64) *hostile {
	cs := qcow2.HostOffset(1) << clusterBits
	return &hostile{Store: corpus.NewStore(size), h: qcow2.Header{
		Version: 3, ClusterBits: clusterBits, RefcountOrder: 4, HeaderLength: qcow2.HeaderLengthCompression,
		RefcountTableOffset: cs, RefcountTableClusters: 1,
	}}
}

// put writes bytes without making the file longer.
func (x *hostile) put(off uint64, b []byte) {
	size := x.Size()
	x.WriteAt(b, int64(off))
	x.Truncate(size)
}

// entries writes a table of 64-bit entries.
func (x *hostile) entries(off uint64, n int, value func(i int) uint64) {
	b := make([]byte, 0, 8*n)
	for i := range n {
		b = binary.BigEndian.AppendUint64(b, value(i))
	}
	x.put(off, b)
}

func (x *hostile) finish() *corpus.Store {
	x.put(0, append(x.h.Encode(), x.exts...))
	return x.Store
}

// snapshots writes a snapshot table.
func (x *hostile) snapshots(off uint64, n int, entry func(i int) qcow2.Snapshot) {
	var b bytes.Buffer
	for i := range n {
		s := entry(i)
		if s.ID == nil {
			s.ID = fmt.Append(nil, i)
		}
		s.SetExtra(0, x.h.Size)
		b.Write(s.Encode())
	}
	x.put(off, b.Bytes())
	x.h.SnapshotsOffset, x.h.NbSnapshots = qcow2.HostOffset(off), uint32(n)
}

// bitmaps writes a bitmap directory, with the extension that leads to it.
func (x *hostile) bitmaps(off uint64, n int, entry func(i int) qcow2.BitmapEntry) {
	var b bytes.Buffer
	for i := range n {
		e := entry(i)
		if e.Name == nil {
			e.Name = fmt.Append(nil, i)
		}
		e.Type = qcow2.BitmapDirtyTracking
		b.Write(e.Encode())
	}
	x.put(off, b.Bytes())
	ext := qcow2.BitmapsExtension{NbBitmaps: uint32(n), DirectorySize: uint64(b.Len()), DirectoryOffset: qcow2.HostOffset(off)}
	x.exts = append(x.exts, qcow2.EncodeExtension(qcow2.ExtBitmaps, ext.Encode())...)
	x.h.AutoclearFeatures |= qcow2.AutoclearBitmaps
}

// heapPeak runs f and gives how much memory the heap took at most beyond what it
// had before, garbage included, in bytes.
func heapPeak(f func()) uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	runtime.GC()
	before, peak := read(), uint64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			peak = max(peak, read())
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	f()
	close(stop)
	<-done
	return peak - min(peak, before)
}

const (
	maxIn = math.MaxInt64 // bytes: the longest file that an io.ReaderAt can be
)

var hostileImages = []struct {
	name string
	make func() *corpus.Store
}{
	{"64 bytes that claim everything", func() *corpus.Store {
		x := newHostile(9, 64)
		x.put(0, bytes.Repeat([]byte{0xff}, 64))
		x.put(0, binary.BigEndian.AppendUint32(nil, qcow2.Magic))
		x.put(4, []byte{0, 0, 0, 2})
		x.put(20, []byte{0, 0, 0, 9})
		return x.Store
	}},
	{"L1 of 4Mi entries in holes", func() *corpus.Store {
		x := newHostile(9, maxIn)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 1<<40, qcow2.MaxL1Entries, math.MaxInt64
		return x.finish()
	}},
	{"L1 whose entries all name one table", func() *corpus.Store {
		x := newHostile(16, 1<<30)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 1<<20, 1<<20, 1<<49
		x.entries(1<<20, 1<<20, func(int) uint64 { return 1<<63 | 1<<29 })
		x.entries(1<<29, 8192, func(i int) uint64 { return 1<<63 | (1<<29 + 1<<20 + uint64(i)<<16) })
		return x.finish()
	}},
	{"L1 that names distinct tables in holes, far apart", func() *corpus.Store {
		x := newHostile(16, maxIn)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 1<<20, 1<<19, 1<<48
		x.entries(1<<20, 1<<19, func(i int) uint64 { return uint64(i+1) << 35 })
		return x.finish()
	}},
	{"L1 that names distinct tables of 2 MiB in holes", func() *corpus.Store {
		x := newHostile(21, maxIn)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 4<<21, 1<<19, 1<<58
		x.entries(4<<21, 1<<19, func(i int) uint64 { return uint64(i+16) << 21 })
		return x.finish()
	}},
	{"L1 tables of 65,536 snapshots, each a cluster further", func() *corpus.Store {
		x := newHostile(9, 1<<36)
		x.h.Size = qcow2.MaxL1Entries << 15
		x.snapshots(1<<20, qcow2.MaxSnapshots, func(i int) qcow2.Snapshot {
			return qcow2.Snapshot{L1TableOffset: qcow2.HostOffset(1<<30 + i<<9), L1Size: qcow2.MaxL1Entries}
		})
		x.entries(1<<30, 1<<19, func(i int) uint64 { return uint64(i+1<<24) << 9 })
		return x.finish()
	}},
	{"L1 tables of 65,536 snapshots, all the same", func() *corpus.Store {
		x := newHostile(9, 1<<36)
		x.h.Size = qcow2.MaxL1Entries << 15
		x.snapshots(1<<20, qcow2.MaxSnapshots, func(i int) qcow2.Snapshot {
			return qcow2.Snapshot{L1TableOffset: 1 << 30, L1Size: qcow2.MaxL1Entries}
		})
		x.entries(1<<30, 1<<19, func(i int) uint64 { return uint64(i+1<<24) << 9 })
		return x.finish()
	}},
	{"one table at other places of each snapshot", func() *corpus.Store {
		x := newHostile(9, 1<<36)
		x.h.Size = 64 << 15
		x.snapshots(1<<20, 1<<14, func(i int) qcow2.Snapshot {
			return qcow2.Snapshot{L1TableOffset: qcow2.HostOffset(1<<30 + i<<9), L1Size: 64}
		})
		x.entries(1<<30, 1<<20, func(i int) uint64 { return 1 << 35 })
		return x.finish()
	}},
	{"refcount table whose entries all name one block", func() *corpus.Store {
		x := newHostile(9, 1<<30)
		x.h.RefcountTableClusters = qcow2.MaxRefcountTableSize >> 9
		x.entries(1<<9, 1<<20, func(i int) uint64 { return 1 << 29 })
		return x.finish()
	}},
	{"refcount table that names blocks in holes", func() *corpus.Store {
		x := newHostile(9, maxIn)
		x.h.RefcountTableClusters, x.h.RefcountOrder = qcow2.MaxRefcountTableSize>>9, 6
		x.entries(1<<9, 1<<19, func(i int) uint64 { return uint64(i+1) << 35 })
		return x.finish()
	}},
	{"refcount table that names large blocks of narrow refcounts in holes", func() *corpus.Store {
		x := newHostile(21, maxIn)
		x.h.RefcountTableClusters, x.h.RefcountOrder = qcow2.MaxRefcountTableSize>>21, 0
		x.entries(1<<21, 1<<20, func(i int) uint64 { return uint64(i+16) << 21 })
		return x.finish()
	}},
	{"65,535 bitmaps that have one table", func() *corpus.Store {
		x := newHostile(9, 1<<34)
		x.h.Size = 1 << 40
		x.bitmaps(1<<20, qcow2.MaxBitmaps, func(i int) qcow2.BitmapEntry {
			return qcow2.BitmapEntry{TableOffset: 1 << 30, TableSize: 1 << 19, GranularityBits: 9}
		})
		x.entries(1<<30, 1<<19, func(i int) uint64 { return uint64(i+1<<22) << 9 })
		return x.finish()
	}},
	{"65,535 bitmaps with tables of a wrong size, in one place", func() *corpus.Store {
		x := newHostile(9, 1<<34)
		x.h.Size = 1 << 40
		x.bitmaps(1<<20, qcow2.MaxBitmaps, func(i int) qcow2.BitmapEntry {
			return qcow2.BitmapEntry{TableOffset: 1 << 30, TableSize: 1, GranularityBits: 9}
		})
		x.entries(1<<30, 1<<19, func(i int) uint64 { return 1 })
		return x.finish()
	}},
	{"65,535 bitmaps with tables a cluster apart", func() *corpus.Store {
		x := newHostile(9, 1<<34)
		x.h.Size = 1 << 40
		x.bitmaps(1<<20, qcow2.MaxBitmaps, func(i int) qcow2.BitmapEntry {
			return qcow2.BitmapEntry{TableOffset: qcow2.HostOffset(1<<30 + i<<9), TableSize: 1 << 19, GranularityBits: 9}
		})
		x.entries(1<<30, 1<<19, func(i int) uint64 { return uint64(i+1<<22) << 9 })
		return x.finish()
	}},
	{"names of 64 KiB", func() *corpus.Store {
		x := newHostile(16, 1<<30)
		x.h.Size = 1 << 20
		name := bytes.Repeat([]byte{1}, 65535)
		x.snapshots(1<<24, 60, func(i int) qcow2.Snapshot {
			return qcow2.Snapshot{L1TableOffset: 7, L1Size: uint32(i), ID: name, Name: name}
		})
		x.bitmaps(1<<20, 60, func(i int) qcow2.BitmapEntry {
			return qcow2.BitmapEntry{TableOffset: 7, TableSize: 8, GranularityBits: 70, Flags: 0xf9, Name: name, ExtraData: name[:7]}
		})
		return x.finish()
	}},
	{"every entry of many tables names one cluster", func() *corpus.Store {
		x := newHostile(16, 1<<30)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 1<<20, 150, 150<<29
		x.entries(1<<20, 150, func(i int) uint64 { return 1<<63 | uint64(i+32)<<16 })
		x.entries(32<<16, 150*8192, func(int) uint64 { return 1<<63 | 1<<29 })
		return x.finish()
	}},
	{"every entry of tables of 2 MiB names one cluster", func() *corpus.Store {
		x := newHostile(21, 1<<30)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 4<<21, 4, 4<<39
		x.entries(4<<21, 4, func(i int) uint64 { return 1<<63 | uint64(i+32)<<21 })
		x.entries(32<<21, 4*1<<18, func(int) uint64 { return 1<<63 | 1<<29 })
		return x.finish()
	}},
	{"pairs of entries name a million clusters", func() *corpus.Store {
		x := newHostile(16, 1<<40)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 1<<20, 150, 150<<29
		x.entries(1<<20, 150, func(i int) uint64 { return 1<<63 | uint64(i+32)<<16 })
		x.entries(32<<16, 150*8192, func(i int) uint64 { return 1<<63 | uint64(i/2+1<<20)<<16 })
		return x.finish()
	}},
	{"compressed clusters of the largest size that all overlap", func() *corpus.Store {
		x := newHostile(21, 1<<30)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 4<<21, 4, 4<<39
		x.entries(4<<21, 4, func(i int) uint64 { return 1<<63 | uint64(i+32)<<21 })
		x.entries(32<<21, 4*1<<18, func(i int) uint64 { return 1<<62 | 0x1fff<<49 | uint64(1<<29+i) })
		return x.finish()
	}},
	{"L2 tables whose entries name themselves and each other", func() *corpus.Store {
		x := newHostile(9, 1<<24)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 1<<20, 1<<14, 1<<29
		x.entries(1<<20, 1<<14, func(i int) uint64 { return 1<<63 | uint64(i+1<<12)<<9 })
		x.entries(1<<21, 1<<20, func(i int) uint64 { return 1<<63 | uint64((i*7)%(1<<14)+1<<12)<<9 })
		return x.finish()
	}},
	{"L1 that is its own L2 table", func() *corpus.Store {
		x := newHostile(16, 1<<24)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 1<<20, 8192, 1<<42
		x.entries(1<<20, 8192, func(i int) uint64 { return 1<<63 | 1<<20 })
		return x.finish()
	}},
	{"L2 tables that are the refcount blocks", func() *corpus.Store {
		x := newHostile(16, 1<<26)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 1<<20, 512, 1<<38
		x.entries(1<<16, 512, func(i int) uint64 { return uint64(i+64) << 16 })
		x.entries(1<<20, 512, func(i int) uint64 { return 1<<63 | uint64(i+64)<<16 })
		return x.finish()
	}},
	{"an encryption header of 8 EiB", func() *corpus.Store {
		x := newHostile(9, maxIn)
		x.h.CryptMethod = qcow2.CryptLUKS
		ext := qcow2.CryptoExtension{Offset: 1 << 20, Length: uint64(maxIn) - 1<<21}
		x.exts = qcow2.EncodeExtension(qcow2.ExtCrypto, ext.Encode())
		return x.finish()
	}},
	{"a refcount of every cluster and no reference", func() *corpus.Store {
		x := newHostile(9, 1<<34)
		x.h.RefcountTableClusters, x.h.RefcountOrder = 1<<8, 0
		x.entries(1<<9, 1<<14, func(i int) uint64 { return uint64(i+1<<12) << 9 })
		x.entries(1<<21, 1<<18, func(i int) uint64 { return 0x5555555555555555 })
		return x.finish()
	}},
	{"leaks that all read as L2 tables", func() *corpus.Store {
		x := newHostile(12, 1<<34)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 16<<12, 2, 1<<22
		x.h.RefcountOrder = 3
		x.entries(1<<12, 512, func(i int) uint64 { return uint64(i+1<<8) << 12 })
		x.entries(1<<20, 512*512, func(i int) uint64 { return 0x0101010101010101 })
		x.entries(1<<23, 1<<20, func(i int) uint64 { return 1<<63 | uint64(i*7919%(1<<20)+1<<12)<<12 })
		return x.finish()
	}},
	{"a virtual size of 8 EiB in a small file", func() *corpus.Store {
		x := newHostile(9, 1<<16)
		x.h.L1TableOffset, x.h.L1Size, x.h.Size = 2<<9, 1, 1<<63
		return x.finish()
	}},
}

// raceDetector tells that the race detector is on, with which everything takes
// longer.
var raceDetector bool

// No image makes a check run long or take much memory, whatever it claims. All of
// these store less than 10 MB.
func TestHostileImages(t *testing.T) {
	const (
		// Each takes a second or two at most, and 190 MiB, garbage included.
		mostTime   = 20 * time.Second
		mostMemory = 320 << 20
	)
	limit := mostTime
	if raceDetector {
		limit *= 5
	}
	for i, x := range hostileImages {
		if testing.Short() && i%8 != 0 {
			continue
		}
		t.Run(x.name, func(t *testing.T) {
			s := x.make()
			img, err := qcow2.Open(s, s.Size())
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			var res *check.Result
			start := time.Now()
			peak := heapPeak(func() { res, err = check.Run(ctx, img, check.Options{BitmapData: true}) })
			t.Logf("%v, %d MiB, counts %d MiB, %d findings, %+v", time.Since(start).Round(time.Millisecond), peak>>20, res.MemoryPeak>>20, len(res.Findings), res.Totals)
			require.NoError(t, err)
			assert.Less(t, peak, uint64(mostMemory))
			assert.NotEqual(t, check.VerdictClean, res.Verdict)
			assert.Equal(t, problem.Count(res.Findings), res.Totals)
		})
	}
}
