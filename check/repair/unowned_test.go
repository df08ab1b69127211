package repair

import (
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// byEntry gives the digest of the active disk, first, and of the disk of each entry of the
// snapshot table; nil where it cannot be read.
func byEntry(t *testing.T, r io.ReaderAt, size int64) (all []*[sha256.Size]byte) {
	t.Helper()
	img, err := qcow2.Open(r, size)
	require.NoError(t, err)
	add := func(d *qcow2.Disk, err error) {
		var sum *[sha256.Size]byte
		if err == nil {
			b := make([]byte, d.Size())
			if _, err := d.ReadAt(b, 0); err == nil || err == io.EOF {
				s := sha256.Sum256(b)
				sum = &s
			}
		}
		all = append(all, sum)
	}
	add(img.ActiveDisk(qcow2.DiskOptions{}))
	for _, s := range qcow2.ReadSnapshotTable(img).Snapshots {
		add(img.SnapshotDisk(&s, qcow2.DiskOptions{}))
	}
	return all
}

// everyWay are all combinations of options that can lose something.
func everyWay() (all []Options) {
	for i := range 8 {
		all = append(all, Options{Reattach: i&1 != 0, AllowDataLoss: i&2 != 0, FreeUnowned: i&4 != 0})
	}
	return all
}

func wayName(o Options) string {
	return fmt.Sprintf("reattach=%v loss=%v free=%v", o.Reattach, o.AllowDataLoss, o.FreeUnowned)
}

// Snapshots whose IDs and names are empty, equal, or each other's. Whichever entry is damaged,
// the others keep their content, whatever is allowed, and a table that is hung back is hung
// where it came from.
func TestHostileSnapshotNames(t *testing.T) {
	for _, names := range [][2][2]string{
		{{"", "1"}, {"1", "x"}}, {{"1", "x"}, {"", "1"}}, {{"1", "2"}, {"2", "1"}},
		{{"1", "a"}, {"1", "b"}}, {{"", ""}, {"", ""}}, {{"", "a"}, {"", "a"}}, {{"a", ""}, {"", "a"}},
	} {
		img, err := corpus.Build(corpus.Spec{Size: 2 << 20, Ops: []corpus.Op{
			corpus.Write{Length: 1 << 20, Pattern: 1},
			corpus.Snapshot{ID: names[0][0], Name: names[0][1]},
			corpus.Write{Length: 1 << 19, Pattern: 2},
			corpus.Snapshot{ID: names[1][0], Name: names[1][1]},
			corpus.Write{Offset: 1 << 18, Length: 1 << 20, Pattern: 3},
		}})
		require.NoError(t, err)
		want := byEntry(t, img, img.Size())
		require.Len(t, want, 3)
		opened, err := img.Open()
		require.NoError(t, err)
		for entry, s := range qcow2.ReadSnapshotTable(opened).Snapshots {
			for _, bit := range []int{10, 16, 17, 20, 40} {
				bad := img.Clone()
				_, err := corpus.FlipBits(corpus.Bytes(s.EntryOffset+qcow2.SnapshotFieldL1TableOffset, 8), 1<<bit).Apply(bad)
				require.NoError(t, err)
				for _, opts := range everyWay() {
					t.Run(fmt.Sprintf("%q/entry %d/bit %d/%s", names, entry, bit, wayName(opts)), func(t *testing.T) {
						plan, err := Make(t.Context(), bad, bad.Size(), opts)
						require.NoError(t, err)
						o := after(t, bad, plan)
						got := byEntry(t, o, o.size)
						assert.Equal(t, want[0], got[0], "the active disk")
						if opts.Reattach {
							assert.Equal(t, want, got, "%v", plan.Lost)
							return
						}
						other := 1 - entry
						switch len(got) {
						case 3:
							assert.Equal(t, want[1+other], got[1+other], "the other snapshot")
						case 2: // the damaged one was given up
							assert.True(t, opts.AllowDataLoss)
							assert.NotEmpty(t, plan.Lost)
							assert.Equal(t, want[1+other], got[1], "the other snapshot")
						default:
							t.Errorf("%d disks are left", len(got))
						}
					})
				}
			}
		}
	}
}

// Snapshots that the header does not lead to come back by --reattach, or by every repair where
// one flipped bit has lost them, and are freed by nothing but --free-unowned.
func TestLostSnapshots(t *testing.T) {
	ops := []corpus.Op{corpus.Write{Length: 1 << 20, Pattern: 1}}
	for i := range 3 {
		ops = append(ops, corpus.Snapshot{ID: fmt.Sprint(i + 1), Name: fmt.Sprint("s", i)}, corpus.Write{Offset: uint64(i) << 18, Length: 1 << 19, Pattern: byte(i + 2)})
	}
	count, offset := corpus.HeaderField(qcow2.FieldNbSnapshots), corpus.HeaderField(qcow2.FieldSnapshotsOffset)
	for _, damage := range []corpus.Damage{
		corpus.Set(count, 0), corpus.Set(count, 1), corpus.Set(count, 2), corpus.Set(offset, 0),
		corpus.FlipBits(offset, 1<<9), corpus.FlipBits(offset, 1<<16), corpus.FlipBits(offset, 1<<18), corpus.FlipBits(offset, 1<<19),
		corpus.FlipBits(offset, 1<<20), corpus.FlipBits(offset, 1<<21), corpus.FlipBits(offset, 1<<45),
	} {
		t.Run(damage.String(), func(t *testing.T) {
			t.Parallel()
			img, err := corpus.Build(corpus.Spec{Size: 2 << 20, Ops: ops})
			require.NoError(t, err)
			want := byEntry(t, img, img.Size())
			_, err = damage.Apply(img)
			require.NoError(t, err)
			for _, opts := range everyWay() {
				plan, err := Make(t.Context(), img, img.Size(), opts)
				require.NoError(t, err)
				assert.True(t, plan.Before.Has(problem.SnapshotsOrphaned), "%v", plan.Before.Findings)
				o := after(t, img, plan)
				switch {
				case opts.Reattach, strings.HasPrefix(damage.String(), "flip"): // a bit is turned back by every repair
					assert.Equal(t, check.VerdictClean, plan.After.Verdict, "%s: %v", wayName(opts), plan.After.Findings)
					assert.Equal(t, want, byEntry(t, o, o.size), "everything is back")
					assert.Empty(t, plan.Lost)
				case opts.FreeUnowned:
					assert.NotEmpty(t, plan.Lost)
				default:
					assertNothingFreed(t, img, img.Size(), o)
				}
			}
		})
	}
}

// assertNothingFreed asserts that each cluster that had a refcount has one.
func assertNothingFreed(t *testing.T, img io.ReaderAt, size int64, o *overlay) {
	t.Helper()
	_, before := inspect(t, img, size)
	_, then := inspect(t, o, o.size)
	require.NotNil(t, then.Table)
	for cl := range qcow2.HostCluster(size >> 16) {
		had, err := before.Table.Get(cl)
		require.NoError(t, err)
		has, err := then.Table.Get(cl)
		require.NoError(t, err)
		require.GreaterOrEqual(t, has, min(had, 1), "cluster %d is not freed", cl)
	}
}

// The data of a wiped table is kept by every repair but one that names it, which says what
// is lost.
func TestWipedTable(t *testing.T) {
	for _, name := range []string{"lost/l2-wiped", "lost/l2-wiped-last", "lost/l2-wiped-dirty", "lost/l1-wiped"} {
		c, ok := corpus.Lookup(name)
		require.True(t, ok)
		img, err := c.Build()
		require.NoError(t, err)
		for _, opts := range everyWay() {
			plan, err := Make(t.Context(), img, img.Size(), opts)
			require.NoError(t, err)
			o := after(t, img, plan)
			if !opts.FreeUnowned {
				assert.NotEqual(t, check.VerdictClean, plan.After.Verdict, "%s: %s", name, wayName(opts))
				assertNothingFreed(t, img, img.Size(), o)
				continue
			}
			assert.Equal(t, check.VerdictClean, plan.After.Verdict, "%s: %v", name, plan.After.Findings)
			require.Len(t, plan.Lost, 1)
			assert.Contains(t, plan.Lost[0], "bytes) that nothing refers to")
		}
	}
}

// With one L2 entry that leads nowhere, giving it up does not make leaks of what it led to.
func TestGivenUpDataIsKept(t *testing.T) {
	img, err := corpus.Build(corpus.Spec{Size: 8 << 20, Ops: []corpus.Op{corpus.Write{Length: 1 << 20, Pattern: 1}}})
	require.NoError(t, err)
	_, err = corpus.FlipBits(corpus.L2Entry(1<<16), 7<<12).Apply(img) // one bit alone would be turned back
	require.NoError(t, err)
	plan, err := Make(t.Context(), img, img.Size(), Options{AllowDataLoss: true})
	require.NoError(t, err)
	assert.NotEmpty(t, plan.LostGuest)
	assertNothingFreed(t, img, img.Size(), after(t, img, plan))
	plan, err = Make(t.Context(), img, img.Size(), Options{AllowDataLoss: true, FreeUnowned: true})
	require.NoError(t, err)
	assert.Equal(t, check.VerdictClean, plan.After.Verdict, "%v", plan.After.Findings)
	assert.True(t, strings.Contains(strings.Join(plan.Lost, "\n"), "1 clusters (65536 bytes)"), "%q", plan.Lost)
}

// One flipped bit of l1_table_offset leads to guest data. --reattach finds the way back, and
// whatever else is allowed, guest data is not written to.
func TestL1OffsetLeadsToData(t *testing.T) {
	img, err := corpus.Build(corpus.Spec{Size: 4 << 30, Ops: []corpus.Op{
		corpus.Write{Length: 20 << 20, Pattern: 1}, corpus.Write{Offset: 1 << 30, Length: 20 << 20, Pattern: 2}, corpus.Write{Offset: 3 << 30, Length: 1 << 20, Pattern: 3},
	}})
	require.NoError(t, err)
	l1 := corpus.HeaderField(qcow2.FieldL1TableOffset)
	for bit := 16; bit < 26; bit++ {
		t.Run(fmt.Sprint("bit ", bit), func(t *testing.T) {
			t.Parallel()
			bad := img.Clone()
			_, err := corpus.FlipBits(l1, 1<<bit).Apply(bad)
			require.NoError(t, err)
			for _, opts := range everyWay() {
				if opts.FreeUnowned && !opts.Reattach {
					continue // which frees the whole disk, and says so
				}
				plan, err := Make(t.Context(), bad, bad.Size(), opts)
				require.NoError(t, err)
				if opts.Reattach {
					assert.Equal(t, check.VerdictClean, plan.After.Verdict, "%s: %v", wayName(opts), plan.After.Findings)
					assert.Empty(t, plan.Lost)
				}
				o := after(t, bad, plan)
				if bit == 20 { // where the data of guest offset 0xc0000 or so is
					was, is := make([]byte, 1<<16), make([]byte, 1<<16)
					x, err := bad.Find(corpus.L1Table())
					require.NoError(t, err)
					require.NoError(t, newOverlay(bad, bad.Size(), false).read(was, int64(x.Offset)^1<<bit))
					require.NoError(t, o.read(is, int64(x.Offset)^1<<bit))
					assert.Equal(t, was, is, "%s", wayName(opts))
				}
			}
		})
	}
}

// What lacks a reference and reads as a table is not hung where it does not belong: a refcount
// table that is none any more, or a table that a snapshot had for itself. Whatever could be
// read before reads the same afterwards.
func TestReattachTellsTablesApart(t *testing.T) {
	const window = 1 << 29
	for _, version := range []uint32{2, 3} {
		spec := corpus.Spec{Version: version, Size: 2 * window, Ops: []corpus.Op{
			corpus.Write{Length: 1 << 20, Pattern: 1},
			corpus.Snapshot{ID: "1", Name: "first"},
			corpus.Write{Length: 1 << 20, Pattern: 2},
		}}
		spec.Ops = append(spec.Ops, corpus.Reserve{Name: "room", Clusters: 2})
		img, err := corpus.Build(spec)
		require.NoError(t, err)
		offset := corpus.SnapshotField("1", qcow2.SnapshotFieldL1TableOffset, 8)
		table, first := corpus.RefcountTable(), corpus.RefcountTableEntry(0)
		for _, damages := range [][]corpus.Damage{
			{corpus.Point(first, table)},
			{corpus.Point(first, table), corpus.FlipBits(offset, 1<<16)},
			{corpus.Point(first, table), corpus.FlipBits(offset, 1<<17)},
			{corpus.Point(first, table), corpus.SetOffset(offset, corpus.RefcountTable(), 1<<20)},
			{corpus.Point(first, table), corpus.Set(corpus.SnapshotL1Entry("1", 0), 0)},
			{corpus.Point(first, table), corpus.Set(corpus.L1Entry(0), 0)},
			{corpus.Set(corpus.SnapshotL1Entry("1", 0), 0)},
			{corpus.Set(offset, 0)},
			{corpus.Wipe(corpus.SnapshotL1("1"))},
			{corpus.FlipBits(offset, 1<<17)},
			{corpus.Set(corpus.SnapshotField("1", qcow2.SnapshotFieldL1Size, 4), 0)},
			{corpus.Set(corpus.HeaderField(qcow2.FieldNbSnapshots), 0), corpus.Set(corpus.HeaderField(qcow2.FieldSnapshotsOffset), 0)},
		} {
			t.Run(fmt.Sprintf("version %d/%v", version, damages), func(t *testing.T) {
				bad := img.Clone()
				for _, d := range damages {
					_, err := d.Apply(bad)
					require.NoError(t, err)
				}
				was := disks(t, bad, bad.Size())
				for _, opts := range []Options{{Reattach: true}, {Reattach: true, AllowDataLoss: true}} {
					plan, err := Make(t.Context(), bad, bad.Size(), opts)
					require.NoError(t, err)
					o := after(t, bad, plan)
					is := disks(t, o, o.size)
					sound := disks(t, img, img.Size())
					for name, d := range was {
						if is[name] == nil {
							assert.NotEmpty(t, plan.Lost)
							continue
						}
						// A window that was not mapped may have come back as it was.
						assertSameGuest(t, name, d, is[name], true, plan.LostGuest...)
						assertSameGuest(t, name, is[name], sound[name], true, plan.LostGuest...)
					}
				}
			})
		}
	}
}
