package repair

import (
	"crypto/sha256"
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

// lossSpec is a full disk of one L2 table, and a snapshot of it with data of its own.
func lossSpec() corpus.Spec {
	return corpus.Spec{Size: 8 << 20, Ops: []corpus.Op{
		corpus.Write{Length: 4 << 20, Pattern: 1},
		corpus.Snapshot{ID: "1", Name: "first"},
		corpus.Write{Length: 8 << 20, Pattern: 2},
	}}
}

// contents gives the digests of whole disks.
func contents(t *testing.T, r io.ReaderAt, size int64) map[string][sha256.Size]byte {
	t.Helper()
	all := make(map[string][sha256.Size]byte)
	for name, d := range disks(t, r, size) {
		b := make([]byte, d.Size())
		if _, err := d.ReadAt(b, 0); err == nil || err == io.EOF {
			all[name] = sha256.Sum256(b)
		}
	}
	return all
}

// One pointer is damaged, and with it everything behind it seems to be leaked, which
// other tools free at once. No repair may: with -r every cluster stays, with --reattach
// all of the disk is back, wherever what is left tells where it belongs.
func TestLostTables(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage corpus.Damage
		back   bool // --reattach brings it back
	}{
		{"a flipped bit in an L1 entry", corpus.FlipBits(corpus.L1Entry(0), 1<<16), true},
		{"another one", corpus.FlipBits(corpus.L1Entry(0), 1<<20), true},
		{"a high one", corpus.FlipBits(corpus.L1Entry(0), 1<<44), true},
		{"one that makes it misaligned", corpus.FlipBits(corpus.L1Entry(0), 1<<12), true},
		{"an L1 entry of zero", corpus.Set(corpus.L1Entry(0), 0), true},
		{"a wiped L2 table", corpus.Wipe(corpus.L2Table(0)), false},
		{"a flipped bit in a snapshot's L1 offset", corpus.FlipBits(corpus.SnapshotField("1", qcow2.SnapshotFieldL1TableOffset, 8), 1<<40), true},
		{"one that makes it misaligned", corpus.FlipBits(corpus.SnapshotField("1", qcow2.SnapshotFieldL1TableOffset, 8), 1<<10), true},
		{"one that leads to data", corpus.FlipBits(corpus.SnapshotField("1", qcow2.SnapshotFieldL1TableOffset, 8), 1<<22), true},
		{"a flipped bit in the header's L1 offset", corpus.FlipBits(corpus.HeaderField(qcow2.FieldL1TableOffset), 1<<35), true},
		{"an entry of a snapshot's L1 table", corpus.FlipBits(corpus.SnapshotL1Entry("1", 0), 1<<21), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			img, err := corpus.Build(lossSpec())
			require.NoError(t, err)
			want := contents(t, img, img.Size())
			require.Len(t, want, 2)
			sound, _ := inspect(t, img, img.Size())
			require.Equal(t, check.VerdictClean, sound.Verdict)
			_, err = tt.damage.Apply(img)
			require.NoError(t, err)

			plan, err := Make(t.Context(), img, img.Size(), Options{})
			require.NoError(t, err)
			o := after(t, img, plan)
			_, evidence := inspect(t, img, img.Size())
			_, then := inspect(t, o, o.size)
			for cl := range qcow2.HostCluster(img.Size() >> 16) {
				had, err := evidence.Table.Get(cl)
				require.NoError(t, err)
				has, err := then.Table.Get(cl)
				require.NoError(t, err)
				require.GreaterOrEqual(t, has, min(had, 1), "cluster %d is not freed", cl)
			}
			switch {
			case strings.HasPrefix(tt.damage.String(), "flip"): // one bit is turned back without being asked
				assert.Equal(t, check.VerdictClean, plan.After.Verdict, "%v", plan.After.Findings)
				assert.Equal(t, want, contents(t, o, o.size), "everything is back")
			case tt.back:
				assert.Contains(t, plan.Left, Advice{Code: problem.OwnerUnknown, Option: "--reattach"})
			}

			with, err := Make(t.Context(), img, img.Size(), Options{Reattach: true})
			require.NoError(t, err)
			o = after(t, img, with)
			if !tt.back {
				assert.Equal(t, check.VerdictInDoubt, with.After.Verdict, "%v", with.After.Findings)
				return
			}
			assert.Equal(t, check.VerdictClean, with.After.Verdict, "%v", with.After.Findings)
			assert.Equal(t, want, contents(t, o, o.size), "everything is back")

			// After a safe repair it can still be asked for.
			o = after(t, img, plan)
			later, err := Make(t.Context(), o, o.size, Options{Reattach: true})
			require.NoError(t, err)
			o = after(t, o, later)
			assert.Equal(t, want, contents(t, o, o.size), "everything is back")
		})
	}
}

// Two lost tables for one place, or two places for one lost table: nobody can tell.
func TestReattachNeverGuesses(t *testing.T) {
	spec := corpus.Spec{Size: 3 << 29, Ops: []corpus.Op{corpus.Write{Length: 1 << 20, Pattern: 1}, corpus.Write{Offset: 1 << 29, Length: 1 << 20, Pattern: 2}}}
	for _, damages := range [][]corpus.Damage{
		{corpus.Set(corpus.L1Entry(0), 0)},
		{corpus.Set(corpus.L1Entry(0), 0), corpus.Set(corpus.L1Entry(1), 0)},
	} {
		img, err := corpus.Build(spec)
		require.NoError(t, err)
		for _, d := range damages {
			_, err = d.Apply(img)
			require.NoError(t, err)
		}
		plan, err := Make(t.Context(), img, img.Size(), Options{Reattach: true})
		require.NoError(t, err)
		assert.True(t, plan.Empty(), "%v", editsOf(plan))
		assert.True(t, plan.After.Has(problem.OrphanL2Table))
		assert.Empty(t, plan.Left)
	}
}

func inspect(t testing.TB, r io.ReaderAt, size int64) (*check.Result, *check.Evidence) {
	t.Helper()
	img, err := qcow2.Open(r, size)
	require.NoError(t, err)
	res, evidence, err := check.Inspect(t.Context(), img, check.Options{})
	require.NoError(t, err)
	return res, evidence
}
