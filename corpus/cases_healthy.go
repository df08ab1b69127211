package corpus

import (
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

const (
	kib = uint64(1) << 10
	mib = uint64(1) << 20
	gib = uint64(1) << 30
	tib = uint64(1) << 40
	pib = uint64(1) << 50
)

// writes is some data in the first clusters of a disk and in its middle.
func writes(s Spec) []Op {
	c := uint64(1) << s.clusterBitsOf()
	return []Op{
		Write{Offset: 0, Length: 2 * c, Pattern: 0x11, Stamp: true},
		Write{Offset: 5*c + 512, Length: c, Pattern: 0x22},
		Write{Offset: s.Size/2&^(c-1) + 512, Length: 512, Pattern: 0x33},
	}
}

// healthyCases are images that a check must find nothing in, one for each
// feature and for combinations of them.
func healthyCases() []Case {
	var cases []Case
	add := func(name, story string, s Spec, want ...Want) {
		cases = append(cases, Case{Name: "healthy/" + name, Story: story, Spec: s, Want: want})
	}
	with := func(s Spec, ops ...Op) Spec {
		s.Ops = append(writes(s), ops...)
		return s
	}

	for bits := uint32(qcow2.MinClusterBits); bits <= qcow2.MaxClusterBits; bits++ {
		size := min(mib<<(bits-qcow2.MinClusterBits), 64*mib)
		add(fmt.Sprintf("clusters-%d", 1<<bits), "an ordinary image with clusters of this many bytes",
			with(Spec{ClusterBits: bits, Size: size}))
		add(fmt.Sprintf("v2-clusters-%d", 1<<bits), "a version 2 image with clusters of this many bytes",
			with(Spec{Version: 2, ClusterBits: bits, Size: size}))
	}
	for order := range qcow2.MaxRefcountOrder + 1 {
		s := with(Spec{ClusterBits: 12, Size: 8 * mib, RefcountBits: 1 << order},
			Write{Offset: 4 * mib, Length: 64 * kib, Pattern: 0x44, Compressed: order > 2})
		if order > 0 {
			s.Ops = append(s.Ops, Snapshot{ID: "1", Name: "s"}, Write{Offset: 0, Length: kib, Pattern: 0x55})
		}
		add(fmt.Sprintf("refcount-bits-%d", 1<<order), "refcounts of this width, shared where they can be", s)
	}

	add("empty", "a new disk that nothing was written to", Spec{Size: 10 * gib})
	add("empty-1tib", "a new large disk", Spec{Size: tib})
	add("size-0", "a disk of no size", Spec{})
	add("size-odd", "the last cluster of the disk is a part of one, down to one sector",
		Spec{Size: mib + 512, Ops: []Op{Write{Offset: mib, Length: 512, Pattern: 1}}})
	add("size-not-sectors", "a size that is not even whole sectors, which the format allows",
		Spec{Size: mib + 100, Ops: []Op{Write{Offset: 0, Length: kib, Pattern: 1}}})
	add("header-104", "written by a QEMU before 5.1: the header ends before the compression type",
		with(Spec{Size: 4 * mib, HeaderLength: qcow2.HeaderLengthV3}))
	add("no-feature-names", "written by software that leaves the feature name table out",
		with(Spec{Size: 4 * mib, NoFeatureNames: true}))
	add("long-l1", "an L1 table with more entries than the disk takes", with(Spec{Size: 4 * mib, MinL1Size: 1000}))
	add("long-refcount-table", "a refcount table with room to grow", with(Spec{Size: 4 * mib, RefcountTableClusters: 4}))
	add("lazy-refcounts", "lazy refcounts, closed in order", with(Spec{Size: 4 * mib, Lazy: true}))
	add("metadata-1tib", "metadata preallocated for 1 TiB", Spec{ClusterBits: 21, Size: tib, Ops: []Op{Map{Length: tib}}})
	add("shuffled", "clusters in an order that has nothing to do with the guest's",
		Spec{Size: 64 * mib, Ops: []Op{Map{Length: 64 * mib, Shuffle: 7}}})
	add("far-end", "one cluster at the end of a large disk",
		Spec{Size: 16 * tib, Ops: []Op{Write{Offset: 16*tib - kib, Length: kib, Pattern: 9}}})

	for _, typ := range []qcow2.CompressionType{qcow2.CompressionZlib, qcow2.CompressionZstd} {
		name := []string{"zlib", "zstd"}[typ]
		for _, bits := range []uint32{9, 12, 16, 21} {
			c := uint64(1) << bits
			add(fmt.Sprintf("%s-clusters-%d", name, c), "compressed clusters, packed one after the other",
				with(Spec{ClusterBits: bits, Size: 64 * c, Compression: typ},
					Write{Offset: 16 * c, Length: 8 * c, Pattern: 0x66, Compressed: true, Stamp: bits > 9},
					Write{Offset: 30 * c, Length: c, Pattern: 0x66, Noise: true, Compressed: true},
					Write{Offset: 17*c + c/2, Length: c / 2, Pattern: 0x77}))
		}
		add(name+"-extended-l2", "compressed clusters beside subclusters",
			with(Spec{Size: 8 * mib, ExtendedL2: true, Compression: typ},
				Write{Offset: mib, Length: 256 * kib, Pattern: 1, Stamp: true, Compressed: true},
				Write{Offset: mib + 4*kib, Length: 2 * kib, Pattern: 2},
				Zero{Offset: mib + 64*kib, Length: 4 * kib}))
	}

	for _, bits := range []uint32{14, 16, 21} {
		c := uint64(1) << bits
		add(fmt.Sprintf("extended-l2-clusters-%d", c), "subclusters written, zeroed and left alone within one cluster",
			with(Spec{ClusterBits: bits, Size: 64 * c, ExtendedL2: true},
				Write{Offset: 10*c + c/32, Length: c / 32, Pattern: 0x41},
				Zero{Offset: 10*c + c/8, Length: c / 32, Keep: true},
				Zero{Offset: 12 * c, Length: c},
				Zero{Offset: 13*c + c/32, Length: c / 8},
				Write{Offset: 14*c + 3*c/32, Length: 5 * c / 32, Pattern: 0x42},
				Discard{Offset: c, Length: c}))
	}
	add("zero-clusters", "clusters that read as zeros: without data, with data kept, after a discard",
		with(Spec{Size: 8 * mib},
			Zero{Offset: 0, Length: 64 * kib}, Zero{Offset: 64 * kib, Length: 64 * kib, Keep: true},
			Zero{Offset: mib, Length: 256 * kib, Keep: true}, Discard{Offset: 4 * mib, Length: 64 * kib},
			Write{Offset: mib + 512, Length: 512, Pattern: 5}))
	add("discarded", "clusters given back, and their place in the file reused",
		with(Spec{Size: 8 * mib}, Discard{Offset: 0, Length: mib, Full: true}, Write{Offset: 6 * mib, Length: 64 * kib, Pattern: 6}))

	cases = append(cases, healthySnapshots()...)
	cases = append(cases, healthyBitmaps()...)
	cases = append(cases, healthyFiles()...)
	return cases
}

// snapshotHistory is a disk with a past: data shared, overwritten, thrown away.
func snapshotHistory(s Spec, vmState uint64) Spec {
	c := uint64(1) << s.clusterBitsOf()
	s.Ops = append(writes(s),
		Snapshot{ID: "1", Name: "first"},
		Write{Offset: c, Length: c, Pattern: 0x44, Stamp: true},
		Discard{Offset: 5 * c, Length: c},
		Snapshot{ID: "2", Name: "second", VMState: vmState},
		Write{Offset: 8*c + 512, Length: c, Pattern: 0x55})
	return s
}

func healthySnapshots() []Case {
	var cases []Case
	add := func(name, story string, s Spec, want ...Want) {
		cases = append(cases, Case{Name: "healthy/" + name, Story: story, Spec: s, Want: want})
	}
	for _, bits := range []uint32{9, 16, 21} {
		size := uint64(64) << bits
		add(fmt.Sprintf("snapshots-clusters-%d", 1<<bits), "two snapshots of a disk that was written to in between",
			snapshotHistory(Spec{ClusterBits: bits, Size: size}, 0))
	}
	add("snapshots-v2", "snapshots in a version 2 image", snapshotHistory(Spec{Version: 2, Size: 8 * mib}, 0))
	add("snapshots-vm-state", "the state of a virtual machine behind the end of the disk",
		snapshotHistory(Spec{Size: 8 * mib}, 300*kib))
	add("snapshots-vm-state-v2", "the state of a virtual machine in a version 2 image",
		snapshotHistory(Spec{Version: 2, Size: 8 * mib}, 300*kib))
	add("snapshots-extended-l2", "snapshots that share subclusters",
		snapshotHistory(Spec{Size: 8 * mib, ExtendedL2: true}, 100*kib))
	s := snapshotHistory(Spec{Size: 8 * mib}, 0)
	s.Ops = append(s.Ops, Write{Offset: 2 * mib, Length: 256 * kib, Pattern: 1, Compressed: true, Stamp: true},
		Snapshot{ID: "3", Name: "with compressed clusters"}, Write{Offset: 2 * mib, Length: 512, Pattern: 2})
	add("snapshots-compressed", "compressed clusters that a snapshot shares", s)
	s = snapshotHistory(Spec{Size: 8 * mib}, 0)
	s.Ops = append(s.Ops, DropSnapshot{ID: "1"})
	add("snapshot-deleted", "a snapshot deleted, another kept", s)
	s = snapshotHistory(Spec{Size: 8 * mib}, 0)
	s.Ops = append(s.Ops, Resize{Size: gib + 512}, Snapshot{ID: "3", Name: "large"})
	add("snapshots-resized", "snapshots of a disk that grew meanwhile", s)
	s = Spec{Size: 8 * mib, Ops: writes(Spec{Size: 8 * mib})}
	s.Ops = append(s.Ops, Snapshot{ID: "1", Name: "short", ExtraData: make([]byte, 16)})
	putUint64(s.Ops[len(s.Ops)-1].(Snapshot).ExtraData[8:], 8*mib)
	add("snapshot-extra-16", "written by a QEMU before 5.2: extra data of 16 bytes", s)
	s = Spec{Size: 4 * mib, Ops: writes(Spec{Size: 4 * mib})}
	for i := range 100 {
		s.Ops = append(s.Ops, Snapshot{ID: fmt.Sprint(i + 1), Name: fmt.Sprintf("day %d", i)},
			Write{Offset: uint64(i) % 64 * 64 * kib, Length: 512, Pattern: byte(i)})
	}
	add("snapshots-100", "a hundred snapshots, one a day", s)
	add("resized", "a disk that grew and shrank",
		Spec{Size: 4 * mib, Ops: append(writes(Spec{Size: 4 * mib}), Resize{Size: 2 * gib},
			Write{Offset: gib, Length: 512, Pattern: 1}, Resize{Size: mib})})
	return cases
}

func healthyBitmaps() []Case {
	var cases []Case
	add := func(name, story string, s Spec, want ...Want) {
		cases = append(cases, Case{Name: "healthy/" + name, Story: story, Spec: s, Want: want})
	}
	dirty := []Range{{0, 2 * mib}, {5*mib + 512, 512}, {7 * mib, 256 * kib}}
	for _, bits := range []uint8{9, 12, 16, 20, 31} {
		add(fmt.Sprintf("bitmap-granularity-%d", uint64(1)<<bits), "an enabled bitmap of this granularity, in bytes",
			Spec{Size: 8 * mib, Ops: writes(Spec{Size: 8 * mib}),
				Bitmaps: []Bitmap{{Name: "b0", GranularityBits: bits, Auto: true, Dirty: dirty}}})
	}
	for _, bits := range []uint32{9, 21} {
		add(fmt.Sprintf("bitmaps-clusters-%d", 1<<bits), "three bitmaps: enabled, disabled, clean",
			Spec{ClusterBits: bits, Size: 8 * mib, Bitmaps: []Bitmap{
				{Name: "on", GranularityBits: 9, Auto: true, Dirty: dirty},
				{Name: "off", GranularityBits: 12, Dirty: dirty},
				{Name: "clean", GranularityBits: 16, Auto: true}}})
	}
	add("bitmap-in-use", "left by a hypervisor that was killed: the bitmap can only be removed",
		Spec{Size: 8 * mib, Bitmaps: []Bitmap{{Name: "b0", Auto: true, InUse: true, Dirty: dirty}}},
		Want{Code: problem.BitmapInUse, At: BitmapField("b0", qcow2.BitmapFieldFlags, 4), Bitmap: "b0"})
	add("bitmap-all-ones-entry", "a table entry that stands for a cluster of ones",
		Spec{ClusterBits: 9, Size: 8 * mib, Bitmaps: []Bitmap{
			{Name: "b0", GranularityBits: 9, Auto: true, Ones: true, Dirty: []Range{{0, 4 * mib}, {6 * mib, 512}}}}})
	add("bitmaps-many", "a bitmap for each of a hundred backups",
		Spec{Size: 8 * mib, Bitmaps: func() (bs []Bitmap) {
			for i := range 100 {
				bs = append(bs, Bitmap{Name: fmt.Sprintf("backup-%d", i), Auto: i == 99, Dirty: dirty[:i%3]})
			}
			return bs
		}()})
	add("bitmap-names", "names that are not plain words, and one of the greatest length",
		Spec{Size: 8 * mib, Bitmaps: []Bitmap{{Name: "größe 大小"}, {Name: "a/b \"c\""}, {Name: string(make1023())}}})
	add("bitmap-and-snapshots", "a bitmap over a disk with snapshots",
		func() Spec {
			s := snapshotHistory(Spec{Size: 8 * mib}, 100*kib)
			s.Bitmaps = []Bitmap{{Name: "b0", Auto: true, Dirty: dirty}}
			return s
		}())
	add("bitmap-large-disk", "a bitmap over 16 TiB, dirty in one place",
		Spec{Size: 16 * tib, Bitmaps: []Bitmap{{Name: "b0", Auto: true, Dirty: []Range{{8 * tib, mib}}}}})
	return cases
}

func make1023() []byte {
	b := make([]byte, qcow2.MaxBitmapName)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return b
}

func healthyFiles() []Case {
	var cases []Case
	add := func(name, story string, s Spec, want ...Want) {
		cases = append(cases, Case{Name: "healthy/" + name, Story: story, Spec: s, Want: want})
	}
	size := 8 * mib
	base := []Write{{Offset: 0, Length: 2 * mib, Pattern: 0xb0, Stamp: true}, {Offset: 5 * mib, Length: mib, Pattern: 0xb1}}
	ops := append(writes(Spec{Size: size}), Zero{Offset: mib, Length: 128 * kib}, Discard{Offset: 5 * mib, Length: 64 * kib})
	add("backing-raw", "an overlay over a raw file",
		Spec{Size: size, Ops: ops, Backing: &Backing{Name: "backing-raw.raw", Format: "raw", Size: size, Writes: base}})
	add("backing-short", "an overlay larger than the file under it",
		Spec{Size: size, Ops: ops, Backing: &Backing{Name: "backing-short.raw", Format: "raw", Size: 3 * mib, Writes: base[:1]}})
	add("backing-qcow2", "an overlay over another image",
		Spec{Size: size, Ops: ops, Backing: &Backing{Name: "backing-qcow2.base", Format: "qcow2",
			Image: &Spec{Size: size, Ops: []Op{base[0], base[1]}}}})
	add("backing-v2", "an overlay of version 2",
		Spec{Version: 2, Size: size, Ops: writes(Spec{Size: size}), Backing: &Backing{Name: "backing-v2.raw", Format: "raw", Size: size, Writes: base}})
	add("backing-extended-l2", "an overlay that copies subclusters, not clusters",
		Spec{Size: size, ExtendedL2: true, Ops: ops, Backing: &Backing{Name: "backing-ext.raw", Format: "raw", Size: size, Writes: base}})
	add("backing-snapshots", "an overlay with snapshots and a bitmap",
		func() Spec {
			s := snapshotHistory(Spec{Size: size}, 0)
			s.Backing = &Backing{Name: "backing-snapshots.raw", Format: "raw", Size: size, Writes: base}
			s.Bitmaps = []Bitmap{{Name: "b0", Auto: true, Dirty: []Range{{0, mib}}}}
			return s
		}())

	data := append(writes(Spec{Size: size}), Zero{Offset: mib, Length: 128 * kib}, Zero{Offset: 64 * kib, Length: 64 * kib, Keep: true})
	add("data-file", "guest data in a file of its own",
		Spec{Size: size, Ops: data, DataFile: &DataFile{Name: "data-file.data"}})
	add("data-file-raw", "guest data in a file that is a raw image by itself",
		Spec{Size: size, Ops: append([]Op{Map{Length: size}}, writes(Spec{Size: size})...),
			DataFile: &DataFile{Name: "data-file-raw.data", Raw: true}})
	add("data-file-extended-l2", "a data file and subclusters",
		Spec{Size: size, ExtendedL2: true, Ops: data, DataFile: &DataFile{Name: "data-file-ext.data"}})
	add("bitmap-for-raw-disk", "the shell that keeps bitmaps for a raw disk",
		Spec{Size: size, Ops: []Op{Map{Length: size}, Write{Offset: 0, Length: mib, Pattern: 3}},
			DataFile: &DataFile{Name: "bitmap-shell.data", Raw: true},
			Bitmaps:  []Bitmap{{Name: "b0", Auto: true, Dirty: []Range{{0, mib}}}}})
	add("luks", "encrypted with LUKS", Spec{Size: size, Ops: writes(Spec{Size: size}), Crypt: qcow2.CryptLUKS})
	add("luks-clusters-512", "encrypted, with the smallest clusters",
		Spec{ClusterBits: 9, Size: mib, Ops: writes(Spec{ClusterBits: 9, Size: mib}), Crypt: qcow2.CryptLUKS})
	add("luks-snapshots", "encrypted, with snapshots and a bitmap",
		func() Spec {
			s := snapshotHistory(Spec{Size: size, Crypt: qcow2.CryptLUKS}, 100*kib)
			s.Bitmaps = []Bitmap{{Name: "b0", Auto: true, Dirty: []Range{{0, mib}}}}
			return s
		}())
	add("aes", "encrypted as QEMU did before LUKS", Spec{Size: size, Ops: writes(Spec{Size: size}), Crypt: qcow2.CryptAES})
	return cases
}
