package corpus

import (
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// readerCases are images on which readers of the format were found to fail, or that
// take paths which others of the corpus do not: sound ones first.
func readerCases() []Case {
	var cases []Case
	add := func(name, story string, s Spec, want ...Want) {
		cases = append(cases, Case{Name: "healthy/" + name, Story: story, Spec: s, Want: want})
	}
	with := func(s Spec, ops ...Op) Spec {
		s.Ops = append(writes(s), ops...)
		return s
	}
	for _, typ := range []qcow2.CompressionType{qcow2.CompressionZlib, qcow2.CompressionZstd} {
		name := []string{"zlib", "zstd"}[typ]
		for _, bits := range []uint32{9, 16, 21} {
			c := uint64(1) << bits
			add(fmt.Sprintf("%s-unaligned-end-clusters-%d", name, c), "the file ends with the last byte of compressed data, as QEMU leaves it: the sectors that the entry names are not all there",
				with(Spec{ClusterBits: bits, Size: 64 * c, Compression: typ, TrimEnd: true},
					Write{Offset: 16 * c, Length: 3 * c, Pattern: 0x71, Compressed: true, Stamp: bits > 9}))
		}
		s := Spec{ClusterBits: 9, Size: 256 * 512, Compression: typ}
		for i := range uint64(200) {
			// Noise does not shrink, so that none of them is stored compressed.
			s.Ops = append(s.Ops, Write{Offset: i * 512, Length: 512 - i*2, Pattern: byte(i), Noise: true},
				Write{Offset: i * 512, Length: 512, Pattern: byte(i), Noise: i%7 == 0, Compressed: i%7 == 0})
		}
		add(name+"-many-clusters-512", "clusters of 512 bytes, none of them compressed: a compressed write of noise leaves it as it is", s)
		packed := Spec{ClusterBits: 9, Size: 256 * 512, Compression: typ}
		for i := range uint64(250) {
			packed.Ops = append(packed.Ops, Write{Offset: i * 512, Length: 512, Pattern: byte(i), Compressed: true})
		}
		add(name+"-packed-clusters-512", "many compressed clusters of 512 bytes in one sector", packed)
	}

	compat, autoclear := qcow2.Features(1<<7|1<<40), qcow2.Features(1<<9|1<<62)
	note := func(code problem.Code) Want { return Want{Code: code} }
	add("unknown-compatible", "features of the future that old software may ignore", with(Spec{Size: 4 * mib, MoreCompatible: compat}))
	add("unknown-autoclear", "features of the future that vouch for something, which software that writes takes away", with(Spec{Size: 4 * mib, MoreAutoclear: autoclear}), note(problem.AutoclearUnknown))
	for _, n := range []uint32{120, 256, 4096} {
		add(fmt.Sprintf("header-%d", n), "a header longer than any that is known, with zeros in what is not",
			with(Spec{Size: 4 * mib, HeaderLength: n}))
	}
	add("unknown-extension", "a header extension that nobody knows yet, of odd length, before those that matter",
		with(Spec{Size: 4 * mib, Extensions: []RawExtension{{0x71636865, []byte("some data")}, {0x71636866, nil}}}), note(problem.ExtensionUnknown))

	for _, bits := range []uint32{9, 16, 21} {
		c := uint64(1) << bits
		add(fmt.Sprintf("zero-over-data-clusters-%d", c), "clusters that read as zeros while old data is where their entries point",
			Spec{ClusterBits: bits, Size: 64 * c, Ops: []Op{
				Write{Offset: 0, Length: 8 * c, Pattern: 0x81, Stamp: bits > 9}, Zero{Offset: c, Length: 3 * c, Keep: true},
				Snapshot{ID: "1", Name: "zeros"}, Zero{Offset: 6 * c, Length: c, Keep: true}, Zero{Offset: 7 * c, Length: c},
				Write{Offset: 2*c + 256, Length: 100, Pattern: 0x82}}})
	}
	for _, bits := range []uint32{14, 16, 21} {
		add(fmt.Sprintf("subclusters-clusters-%d", uint64(1)<<bits), "clusters with subclusters in every mix of stored, zero, stored and made zero, and left to the backing file",
			subclusterMix(bits))
	}

	size := 8 * mib
	bottom := Spec{Size: size, Ops: []Op{Write{Offset: 0, Length: 4 * mib, Pattern: 0x91, Stamp: true}}}
	middle := Spec{ClusterBits: 12, Size: size, Backing: &Backing{Name: "chain-bottom.qcow2-base", Format: "qcow2", Image: &bottom},
		Ops: []Op{Write{Offset: mib, Length: mib, Pattern: 0x92, Stamp: true}, Zero{Offset: 3 * mib, Length: 512 * kib}}}
	add("backing-chain", "an overlay over an overlay over an image, each with clusters of another size",
		Spec{ClusterBits: 14, Size: size, Backing: &Backing{Name: "chain-middle.qcow2-base", Format: "qcow2", Image: &middle},
			Ops: []Op{Write{Offset: mib + 100, Length: 5000, Pattern: 0x93}, Zero{Offset: 0, Length: 64 * kib}, Write{Offset: 7 * mib, Length: kib, Pattern: 0x94}}})
	short := Spec{Size: mib + 512, Ops: []Op{Write{Offset: 0, Length: mib + 512, Pattern: 0x95, Stamp: true}}}
	long := Spec{Size: 4 * mib, Backing: &Backing{Name: "chain-short.qcow2-base", Format: "qcow2", Image: &short}, Ops: []Op{Write{Offset: 3 * mib, Length: 512, Pattern: 0x96}}}
	add("backing-chain-sizes", "an overlay shorter than the image under it, which is longer than the one at the bottom",
		Spec{Size: 2 * mib, Backing: &Backing{Name: "chain-long.qcow2-base", Format: "qcow2", Image: &long}, Ops: []Op{Write{Offset: 512, Length: 512, Pattern: 0x97}}})

	old := func(bits uint32) Spec { return Spec{Version: 2, ClusterBits: bits, Size: 64 << bits} }
	for _, bits := range []uint32{9, 16, 21} {
		c := uint64(1) << bits
		add(fmt.Sprintf("v2-zlib-clusters-%d", c), "compressed clusters in a version 2 image",
			with(old(bits), Write{Offset: 16 * c, Length: 8 * c, Pattern: 0xa1, Compressed: true, Stamp: bits > 9}, Discard{Offset: 18 * c, Length: c, Full: true}))
		s := Spec{ClusterBits: bits, Size: 64 * c, Crypt: qcow2.CryptAES}
		add(fmt.Sprintf("aes-clusters-%d", c), "encrypted as QEMU did before LUKS, in clusters of this size", with(s))
	}
	over := old(16)
	over.Backing = &Backing{Name: "v2-backing.qcow2-base", Format: "qcow2", Image: &Spec{Version: 2, Size: 4 * mib, Ops: writes(Spec{Size: 4 * mib})}}
	over.Ops = []Op{Write{Offset: 70 * kib, Length: kib, Pattern: 0xa2}}
	add("v2-backing-qcow2", "an overlay of version 2 over an image of version 2", over)
	over = old(16)
	over.Backing = &Backing{Name: "v2-backing-unnamed.raw", Size: 4 * mib, Writes: []Write{{Offset: 0, Length: mib, Pattern: 0xa3, Stamp: true}}}
	over.Ops = []Op{Write{Offset: 70 * kib, Length: kib, Pattern: 0xa4}}
	cases = append(cases, Case{Name: "backing/v2-no-format", Story: "an overlay of version 2 that does not tell the format of the file under it", Spec: over, Want: []Want{note(problem.BackingFormatMissing)}})
	aes := Spec{Version: 2, Size: 4 * mib, Crypt: qcow2.CryptAES}
	add("v2-aes", "encrypted as QEMU did before LUKS, of version 2", with(aes))
	aes.Version = 3
	add("aes-snapshots", "encrypted as QEMU did before LUKS, with snapshots", snapshotHistory(aes, 0))
	add("aes-zero-clusters", "encrypted as QEMU did before LUKS, with clusters that read as zeros and are not to be decrypted",
		with(aes, Zero{Offset: 0, Length: 64 * kib}, Zero{Offset: 64 * kib, Length: 64 * kib, Keep: true}))
	return append(append(cases, clusterBitsCases()...), damagedDataCases()...)
}

// subclusterMix gives a disk over a backing file whose clusters have, eight
// subclusters at a time, every row of four states.
func subclusterMix(bits uint32) Spec {
	c := uint64(1) << bits
	const rows = 4 * 4 * 4 * 4
	n := min(rows, 32*mib/c) // of large clusters, one mix in so many
	sub, part := c/qcow2.SubclustersPerCluster, c/4
	s := Spec{ClusterBits: bits, Size: n*c + sub, ExtendedL2: true}
	name := fmt.Sprintf("subclusters-%d.raw", c)
	s.Backing = &Backing{Name: name, Format: "raw", Size: s.Size - c/2, Writes: []Write{{Length: s.Size - c/2, Pattern: 0xb0, Stamp: true}}}
	for gc := range n {
		mix := gc * (rows / n)
		for k := range uint64(4) {
			at := gc*c + k*part
			switch mix >> (2 * k) & 3 {
			case 1:
				s.Ops = append(s.Ops, Write{Offset: at + sub, Length: part - sub, Pattern: byte(gc), Stamp: true})
			case 2:
				s.Ops = append(s.Ops, Zero{Offset: at, Length: part - sub})
			case 3:
				s.Ops = append(s.Ops, Write{Offset: at, Length: part, Pattern: byte(gc), Stamp: true}, Zero{Offset: at + sub, Length: part - 2*sub, Keep: true})
			}
		}
	}
	return s
}

// clusterBitsCases have headers that ask for clusters of impossible sizes: shifts by
// them overflow.
func clusterBitsCases() []Case {
	var cases []Case
	bits := HeaderField(qcow2.FieldClusterBits)
	for _, n := range []uint64{23, 24, 28, 29, 30, 31, 32, 33, 48, 60, 61, 62, 63, 64} {
		cases = append(cases, one(fmt.Sprintf("header/cluster-bits-%d", n), "clusters of a size at which a shift that nobody guarded overflows",
			base(16), problem.ClusterSizeInvalid, bits, Set(bits, n)))
	}
	return cases
}

// damagedDataCases are images in which nothing but compressed data is damaged: a check
// of the metadata cannot see it, and a reader must.
func damagedDataCases() []Case {
	var cases []Case
	for _, typ := range []qcow2.CompressionType{qcow2.CompressionZlib, qcow2.CompressionZstd} {
		name := []string{"zlib", "zstd"}[typ]
		for _, bits := range []uint32{9, 16, 21} {
			c := uint64(1) << bits
			s := Spec{ClusterBits: bits, Size: 64 * c, Compression: typ, Ops: append(touches(bits),
				Write{Offset: 16 * c, Length: c, Pattern: 0xc1, Compressed: true},
				Write{Offset: 20 * c, Length: c, Pattern: 0xc2, Compressed: true},
				Write{Offset: 24 * c, Length: c, Pattern: 0xc3, Compressed: true})}
			add := func(what, story string, d ...Damage) {
				cases = append(cases, Case{Name: fmt.Sprintf("guest-data/%s-%s-clusters-%d", name, what, c), Story: story, Spec: s, Damage: d, DataDamaged: true})
			}
			at := Data(20 * c)
			add("noise", "compressed data that is no compressed data", Put(at, noise(16)))
			add("flipped", "a bit in compressed data is flipped", FlipBits(at.At(4, 1), 0x10))
			add("zeros", "compressed data that was never written", Put(at, make([]byte, 16)))
			other, err := compress(typ, make([]byte, c/2))
			if err == nil && len(other) <= 24 {
				add("short", "compressed data of half a cluster", Put(at, other))
			}
			if other, err = compress(typ, make([]byte, 2*c)); err == nil && len(other) <= 24 {
				add("long", "compressed data of two clusters", Put(at, other))
			}
		}
	}
	return cases
}
