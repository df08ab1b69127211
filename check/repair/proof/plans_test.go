package proof

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

type damages = []corpus.Damage

var leave = Allowed{DataLoss: true}

// finder gives the place of a structure.
type finder func(corpus.Place) qcow2.HostOffset

func extended(s *corpus.Spec) bool { return s.ExtendedL2 }
func standard(s *corpus.Spec) bool { return !s.ExtendedL2 && s.Version != 2 }
func inImage(s *corpus.Spec) bool  { return s.DataFile == nil }
func bitmapped(s *corpus.Spec) bool {
	return len(s.Bitmaps) > 0
}

// leaked is a cluster with data, a refcount and no reference.
func leaked() damages {
	return damages{corpus.SetRefcount(corpus.Reserved("spare"), 1), corpus.SetBits(corpus.Reserved("spare").At(0, 1), 7)}
}

// wrong are plans that would do harm, each in one way.
func wrong(s *corpus.Spec) []plan {
	cs := uint64(1) << s.ClusterBits
	lost := func(of problem.SnapshotRef, off, n uint64) Declared { return Declared{Lost: []Range{{of, off, n}}} }
	clear := corpus.Wipe
	return []plan{
		// The mapping.
		{name: "another host cluster", changes: damages{corpus.Point(corpus.L2Descriptor(0), corpus.Data(2*cs))}, needs: inImage},
		{name: "two clusters swapped", changes: damages{corpus.Swap(corpus.L2Entry(0), corpus.L2Entry(2*cs))}},
		{name: "an L2 entry cleared", changes: damages{clear(corpus.L2Entry(0))}},
		{name: "an L1 entry cleared", changes: damages{clear(corpus.L1Entry(0))}},
		{name: "an L2 table cleared", changes: damages{clear(corpus.L2Table(0))}},
		{name: "the zero flag set", changes: damages{corpus.SetBits(corpus.L2Descriptor(0), 1)}, needs: standard},
		{name: "a cluster said to be compressed", changes: damages{corpus.FlipBits(corpus.L2Descriptor(0), 1<<62)}},
		{name: "a compressed cluster moved", changes: damages{corpus.Add(corpus.L2Descriptor(4*cs), 512)}},
		{name: "a compressed cluster cut", changes: damages{corpus.FlipBits(corpus.L2Descriptor(4*cs), 1<<(70-s.ClusterBits))}},
		{name: "a subcluster dropped", changes: damages{corpus.ClearBits(corpus.L2Bitmap(0), 1)}, needs: extended},
		{name: "a subcluster made zero", changes: damages{corpus.ClearBits(corpus.L2Bitmap(0), 2), corpus.SetBits(corpus.L2Bitmap(0), 2<<32)}, needs: extended},
		{name: "a subcluster of two kinds made zero", before: damages{corpus.SetBits(corpus.L2Bitmap(0), 2<<32)},
			changes: damages{corpus.ClearBits(corpus.L2Bitmap(0), 2)}, needs: extended},
		{name: "a zero cluster unallocated over a backing file", changes: damages{clear(corpus.L2Entry(6 * cs))}, needs: func(s *corpus.Spec) bool { return s.Backing != nil }},
		{name: "an empty entry mapped", changes: damages{corpus.Copy(corpus.L2Entry(9*cs), corpus.L2Entry(0))}},
		{name: "a snapshot's L1 table for the disk", changes: damages{corpus.SetOffset(corpus.HeaderField(qcow2.FieldL1TableOffset), corpus.SnapshotL1("1"), 0)}},
		{name: "a shorter L1 table", changes: damages{corpus.Set(corpus.HeaderField(qcow2.FieldL1Size), 0)}},
		{name: "a bad entry cleared", before: damages{corpus.Add(corpus.L2Descriptor(0), 512)}, changes: damages{clear(corpus.L2Entry(0))},
			needs: func(s *corpus.Spec) bool { return s.ClusterBits > 9 }},
		{name: "an entry past the end cleared", before: damages{corpus.SetBits(corpus.L2Descriptor(0), 1<<48)}, changes: damages{clear(corpus.L2Entry(0))}},
		{name: "a bad L1 entry cleared", before: damages{corpus.SetBits(corpus.L1Entry(0), 1<<48)}, changes: damages{clear(corpus.L1Entry(0))}},

		// Bytes.
		{name: "a data byte", changes: damages{corpus.FlipBits(corpus.Data(0).At(9, 1), 1)}, needs: inImage},
		{name: "a byte of a snapshot's data", changes: damages{corpus.FlipBits(corpus.SnapshotData("1", cs).At(9, 1), 1)}},
		{name: "a byte of compressed data", changes: damages{corpus.FlipBits(corpus.Data(4*cs).At(3, 1), 1)}},
		{name: "a leak written over", before: leaked(), changes: damages{corpus.SetBits(corpus.Reserved("spare").At(4, 1), 1)}},
		{name: "free space that a snapshot owns", before: damages{corpus.SetRefcount(corpus.SnapshotData("1", cs), 0)},
			changes: damages{corpus.FlipBits(corpus.SnapshotData("1", cs).At(0, 1), 1), corpus.SetRefcount(corpus.SnapshotData("1", cs), 1)}},

		// Refcounts.
		{name: "a data cluster freed", changes: damages{corpus.SetRefcount(corpus.Data(0), 0)}, needs: inImage},
		{name: "a snapshot's cluster freed", changes: damages{corpus.SetRefcount(corpus.SnapshotData("1", cs), 0)}},
		{name: "an L2 table freed", changes: damages{corpus.SetRefcount(corpus.L2Table(0), 0)}},
		{name: "the L1 table freed", changes: damages{corpus.SetRefcount(corpus.L1Table(), 0)}},
		{name: "a bitmap's data freed", changes: damages{corpus.SetRefcount(corpus.BitmapData("b0", 0), 0)}, needs: bitmapped},
		{name: "a refcount block dropped", changes: damages{clear(corpus.RefcountTableEntry(0))}},
		{name: "a leak freed in doubt", before: append(leaked(), corpus.SetBits(corpus.L1Entry(0), 1<<48)),
			changes: damages{corpus.SetRefcount(corpus.Reserved("spare"), 0)}},
		{name: "unowned clusters freed without leave", before: append(leaked(), corpus.SetBits(corpus.L1Entry(0), 1<<48)), changes: damages{corpus.SetRefcount(corpus.Reserved("spare"), 0)},
			declare: Declared{Unowned: 1}, allow: leave},
		{name: "more unowned clusters freed than declared", before: append(leaked(), corpus.SetBits(corpus.L1Entry(0), 1<<48)),
			changes: damages{corpus.SetRefcount(corpus.Reserved("spare"), 0)}, allow: Allowed{DataLoss: true, Unowned: true}},
		{name: "unowned data freed as what is left of bitmaps", before: append(leaked(), corpus.SetBits(corpus.L1Entry(0), 1<<48)), changes: damages{corpus.SetRefcount(corpus.Reserved("spare"), 0)},
			fill: func(d *Declared, at finder) {
				d.Remains = map[qcow2.HostCluster]struct{}{qcow2.HostCluster(at(corpus.Reserved("spare")) >> s.ClusterBits): {}}
			}},
		{name: "a leak freed whose doubt the plan removes", before: append(leaked(), corpus.SetBits(corpus.L1Entry(0), 1<<48)),
			changes: damages{corpus.SetRefcount(corpus.Reserved("spare"), 0), clear(corpus.L1Entry(0))}},

		// Snapshots.
		{name: "no snapshots", changes: damages{corpus.Set(corpus.HeaderField(qcow2.FieldNbSnapshots), 0)}, needs: func(s *corpus.Spec) bool { return s.DataFile == nil && s.RefcountBits != 1 }},
		{name: "a snapshot renamed", changes: damages{corpus.Put(corpus.SnapshotEntry("1").At(qcow2.SnapshotHeadSize+24, 1), []byte("9"))}},
		{name: "a snapshot's disk resized", changes: damages{corpus.FlipBits(corpus.SnapshotField("1", qcow2.SnapshotHeadSize+8, 8), 1<<16)}},
		{name: "a snapshot's L1 entry cleared", changes: damages{clear(corpus.SnapshotL1Entry("1", 0))}},
		{name: "a snapshot's L2 entry cleared", changes: damages{clear(corpus.SnapshotL2Entry("1", 2*cs))}},
		{name: "a snapshot declared lost and kept", changes: damages{corpus.FlipBits(corpus.L2Descriptor(cs), 1<<63)}, allow: leave,
			fill: func(d *Declared, at finder) { d.Snapshots = append(d.Snapshots, at(corpus.SnapshotEntry("1"))) }},
		{name: "a snapshot given up without leave", changes: damages{corpus.Set(corpus.HeaderField(qcow2.FieldNbSnapshots), 0)},
			fill: func(d *Declared, at finder) { d.Snapshots = append(d.Snapshots, at(corpus.SnapshotEntry("1"))) }},

		// Bitmaps.
		{name: "a dirty bit cleared", changes: damages{corpus.ClearBits(corpus.BitmapData("b0", 0).At(0, 1), 1)}, needs: bitmapped},
		{name: "a bit behind the last one cleared", before: damages{corpus.SetBits(corpus.BitmapData("b0", 0).At(400, 1), 1)},
			changes: damages{corpus.ClearBits(corpus.BitmapData("b0", 0).At(400, 1), 1)}, needs: func(s *corpus.Spec) bool { return bitmapped(s) && s.ClusterBits == 9 }},
		{name: "a bitmap's data dropped", changes: damages{clear(corpus.BitmapTableEntry("b0", 0))}, needs: bitmapped},
		{name: "a sound bitmap marked in use", changes: damages{corpus.SetBits(corpus.BitmapField("b0", qcow2.BitmapFieldFlags, 4), 1)}, needs: bitmapped},
		{name: "a bitmap in use called sound", changes: damages{corpus.ClearBits(corpus.BitmapField("b1", qcow2.BitmapFieldFlags, 4), 1)}, needs: bitmapped},
		{name: "a bitmap's granularity", changes: damages{corpus.Add(corpus.BitmapField("b0", qcow2.BitmapFieldGranularityBits, 1), 1)}, needs: bitmapped},
		{name: "no bitmaps any more", changes: damages{corpus.ClearBits(corpus.HeaderField(qcow2.FieldAutoclearFeatures), 1)}, needs: bitmapped},
		{name: "stale bitmaps called true", before: damages{corpus.ClearBits(corpus.HeaderField(qcow2.FieldAutoclearFeatures), 1)},
			changes: damages{corpus.SetBits(corpus.HeaderField(qcow2.FieldAutoclearFeatures), 1)}, needs: bitmapped},
		{name: "a bitmap directory found that nobody lost", changes: damages{corpus.FlipBits(corpus.L2Descriptor(0), 1<<63)},
			fill: func(d *Declared, at finder) {
				d.Directory = qcow2.BitmapsExtension{NbBitmaps: 2, DirectorySize: 64, DirectoryOffset: at(corpus.BitmapDirectory())}
			}, needs: bitmapped},
		{name: "a bitmap led to the table of another one", changes: damages{corpus.Copy(corpus.BitmapField("b0", 0, 8), corpus.BitmapField("b1", 0, 8))},
			fill: func(d *Declared, at finder) {
				d.Tables = []Pointer{{at(corpus.BitmapField("b0", 0, 8)), at(corpus.BitmapTable("b1"))}}
			}, needs: bitmapped},
		{name: "a bitmap declared removed and kept", changes: damages{corpus.FlipBits(corpus.L2Descriptor(0), 1<<63)},
			declare: Declared{Bitmaps: []string{"b0"}}, needs: bitmapped},

		// The header.
		{name: "the virtual size", changes: damages{corpus.Add(corpus.HeaderField(qcow2.FieldSize), 512)}},
		{name: "the version", changes: damages{corpus.FlipBits(corpus.HeaderField(qcow2.FieldVersion), 1)}},
		{name: "the cluster size", changes: damages{corpus.FlipBits(corpus.HeaderField(qcow2.FieldClusterBits), 1)}},
		{name: "extended L2 entries", changes: damages{corpus.FlipBits(corpus.HeaderField(qcow2.FieldIncompatibleFeatures), 16)}, needs: func(s *corpus.Spec) bool { return s.Version != 2 }},
		{name: "the encryption", changes: damages{corpus.FlipBits(corpus.HeaderField(qcow2.FieldCryptMethod), 2)}},
		{name: "the backing file", changes: damages{corpus.FlipBits(corpus.BackingName().At(0, 1), 1)}, needs: func(s *corpus.Spec) bool { return s.Backing != nil }},
		{name: "the data file", changes: damages{corpus.FlipBits(corpus.ExtensionData(qcow2.ExtDataFile, 0, 1), 1)}, needs: func(s *corpus.Spec) bool { return s.DataFile != nil }},
		{name: "the encryption header", changes: damages{corpus.FlipBits(corpus.ExtensionData(qcow2.ExtCrypto, 0, 8), 1<<30)}, needs: func(s *corpus.Spec) bool { return s.Crypt == qcow2.CryptLUKS }},
		{name: "a shorter file", shorter: 512},

		// What is declared.
		{name: "a loss without leave", changes: damages{clear(corpus.L2Entry(0))}, declare: lost(0, 0, cs)},
		{name: "a loss that is kept", changes: damages{corpus.FlipBits(corpus.L2Descriptor(0), 1<<63)}, declare: lost(0, 2*cs, cs), allow: leave},
		{name: "a loss that is wider", changes: damages{clear(corpus.L2Entry(0))}, declare: lost(0, 0, 3*cs), allow: leave},
		{name: "a loss elsewhere", changes: damages{clear(corpus.L2Entry(0))}, declare: lost(0, 2*cs, cs), allow: leave},
		{name: "a loss of another disk", changes: damages{clear(corpus.L2Entry(0))}, declare: lost(1, 0, cs), allow: leave},
		{name: "a table hung back that was not lost", changes: damages{clear(corpus.L1Entry(0))}, allow: Allowed{Reattach: true}},
		{name: "a table hung back without leave", before: damages{corpus.Wipe(corpus.L1Entry(0))}, changes: damages{corpus.Point(corpus.L1Entry(0), corpus.L2Table(0))},
			fill: func(d *Declared, at finder) { d.Reattached = append(d.Reattached, at(corpus.L1Entry(0))) }},
		{name: "a table hung back undeclared", before: damages{corpus.Wipe(corpus.L1Entry(0))}, changes: damages{corpus.Point(corpus.L1Entry(0), corpus.L2Table(0))},
			allow: Allowed{Reattach: true}},
		{name: "a snapshot's table hung into the disk", before: damages{corpus.Wipe(corpus.L1Entry(0))}, changes: damages{corpus.Point(corpus.L1Entry(0), corpus.SnapshotL2Table("1", 0))},
			allow: Allowed{Reattach: true}, fill: func(d *Declared, at finder) { d.Reattached = append(d.Reattached, at(corpus.L1Entry(0))) }},
		{name: "a lost table hung back with an entry less", before: damages{corpus.Wipe(corpus.L1Entry(0))}, changes: damages{corpus.Point(corpus.L1Entry(0), corpus.L2Table(0)), clear(corpus.L2Entry(0))},
			allow: Allowed{Reattach: true}, fill: func(d *Declared, at finder) { d.Reattached = append(d.Reattached, at(corpus.L1Entry(0))) }},
		{name: "a table hung over another one", changes: damages{corpus.Point(corpus.SnapshotL1Entry("1", 0), corpus.L2Table(0))},
			allow: Allowed{Reattach: true}, fill: func(d *Declared, at finder) { d.Reattached = append(d.Reattached, at(corpus.SnapshotL1Entry("1", 0))) }},
		{name: "a correction of a sound entry", changes: damages{corpus.FlipBits(corpus.L2Descriptor(cs), 1<<20)},
			fill: func(d *Declared, at finder) {
				d.Corrected = append(d.Corrected, Bit{at(corpus.L2Descriptor(cs)) + 5, 16})
			}},
		{name: "a correction of two bits", before: damages{corpus.FlipBits(corpus.L2Descriptor(cs), 3<<40)}, changes: damages{corpus.FlipBits(corpus.L2Descriptor(cs), 3<<40)},
			fill: func(d *Declared, at finder) {
				d.Corrected = append(d.Corrected, Bit{at(corpus.L2Descriptor(cs)) + 2, 3})
			}},
		{name: "a correction of nothing", changes: damages{corpus.FlipBits(corpus.L2Descriptor(0), 1<<63)},
			declare: Declared{Corrected: []Bit{{qcow2.FieldSize, 1}}}},
	}
}

// right are plans that do no harm.
func right(s *corpus.Spec) []plan {
	cs := uint64(1) << s.ClusterBits
	return []plan{
		{name: "nothing"},
		{name: "COPIED turned", changes: damages{corpus.FlipBits(corpus.L2Descriptor(cs), 1<<63)}},
		{name: "a declared loss", changes: damages{corpus.Wipe(corpus.L2Entry(cs))}, declare: Declared{Lost: []Range{{0, cs, cs}}}, allow: leave,
			needs: func(s *corpus.Spec) bool { return s.DataFile == nil && s.RefcountBits != 1 }},
		{name: "a bad entry given up", before: damages{corpus.SetBits(corpus.L2Descriptor(cs), 1<<48)}, changes: damages{corpus.Wipe(corpus.L2Entry(cs))},
			declare: Declared{Lost: []Range{{0, cs, cs}}}, allow: leave},
		{name: "a leak freed", before: leaked(), changes: damages{corpus.SetRefcount(corpus.Reserved("spare"), 0)}},
		{name: "a free cluster used", changes: damages{corpus.SetRefcount(corpus.Reserved("spare"), 1), corpus.SetBits(corpus.Reserved("spare").At(0, 1), 1)}},
		{name: "a copy in a free cluster", changes: damages{corpus.Copy(corpus.Reserved("spare").At(0, cs), corpus.Data(2*cs)), corpus.Point(corpus.L2Descriptor(2*cs), corpus.Reserved("spare"))},
			needs: func(s *corpus.Spec) bool { return s.DataFile == nil && s.Crypt == qcow2.CryptNone }},
		{name: "a refcount raised", changes: damages{corpus.AddRefcount(corpus.L2Table(0), 1)}, needs: func(s *corpus.Spec) bool { return s.RefcountBits != 1 }},
		{name: "a flipped bit put back", before: damages{corpus.FlipBits(corpus.L2Descriptor(cs), 1<<40)}, changes: damages{corpus.FlipBits(corpus.L2Descriptor(cs), 1<<40)},
			fill: func(d *Declared, at finder) {
				d.Corrected = append(d.Corrected, Bit{at(corpus.L2Descriptor(cs)) + 2, 1})
			}},
		{name: "a lost table hung back", before: damages{corpus.Wipe(corpus.L1Entry(0))}, changes: damages{corpus.Point(corpus.L1Entry(0), corpus.L2Table(0))},
			allow: Allowed{Reattach: true}, fill: func(d *Declared, at finder) { d.Reattached = append(d.Reattached, at(corpus.L1Entry(0))) }},
		{name: "a snapshot given up", changes: damages{corpus.Set(corpus.HeaderField(qcow2.FieldNbSnapshots), 0)}, allow: leave,
			fill: func(d *Declared, at finder) { d.Snapshots = append(d.Snapshots, at(corpus.SnapshotEntry("1"))) }},
		{name: "reserved bits cleared", before: damages{corpus.SetBits(corpus.L2Descriptor(0), 2)}, changes: damages{corpus.ClearBits(corpus.L2Descriptor(0), 2)}},
	}
}
