package fuzz_test

import (
	"errors"
	"flag"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/fuzz"
	"github.com/qcheck/qcheck/qcow2"
)

var asked = flag.Int("asked", 60, "how many mutants QEMU is asked about")

// What a check says of mutants goes with what QEMU says of them, but for what
// differences.md explains.
func TestMutantsAgainstQEMU(t *testing.T) {
	qemutest.Require(t)
	img, _ := qemutest.Find(qemutest.QemuImg)
	io, _ := qemutest.Find(qemutest.QemuIO)
	q := &fuzz.QEMU{Img: img, IO: io, Dir: filepath.Join(t.TempDir(), "asked"), Timeout: 30 * time.Second}
	seen := make(map[string]int)
	n, most := 0, *asked
	if testing.Short() {
		most /= 3
	}
	for seed := *firstSeed; n < most; seed++ {
		m, img, err := fuzz.NewMutant(&images, fuzz.Cases(), seed)
		require.NoError(t, err)
		c, _ := corpus.Lookup(m.Case)
		said, err := q.Ask(t.Context(), &c, img)
		if errors.Is(err, fuzz.ErrNotAsked) {
			continue
		}
		require.NoError(t, err)
		n++
		res := verify(t, &c, img, m.String())
		if res == nil {
			continue
		}
		opened, err := img.Open()
		require.NoError(t, err)
		for _, d := range fuzz.Compare(opened, res, said) {
			if seen[d.Key]++; fuzz.Known()[d.Key] == "" && seen[d.Key] <= 5 {
				assert.Fail(t, d.Key, "%.600s\n%s", d.Text, m)
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(seen)) {
		t.Logf("%5d  %s", seen[k], k)
	}
}

// That QEMU does not end is known where it reads hundreds of GiB, and new elsewhere.
func TestHangsAreToldApart(t *testing.T) {
	for _, test := range []struct {
		m    *fuzz.Mutant
		want string
	}{
		{&fuzz.Mutant{Case: "healthy/empty"}, "qemu-img check does not end"},
		// Guest data stands behind the table.
		{&fuzz.Mutant{Case: "healthy/snapshots-clusters-2097152", Mutations: []fuzz.Mutation{{Op: fuzz.OpWrite, At: qcow2.FieldL1Size, Bytes: []byte{0, 0x20, 0, 1}}}},
			"qemu-img check reads an L2 table for each of a great many L1 entries"},
	} {
		c, img, err := test.m.Build(&images)
		require.NoError(t, err)
		opened, err := img.Open()
		require.NoError(t, err)
		res := verify(t, c, img, test.want)
		got := fuzz.Compare(opened, res, &fuzz.Said{RC: -1})
		require.Len(t, got, 1)
		assert.Equal(t, test.want, got[0].Key)
	}
}

// The table can be read, and gives a reason for each.
func TestDifferences(t *testing.T) {
	assert.NotEmpty(t, fuzz.Known())
	for key, why := range fuzz.Known() {
		assert.NotEmpty(t, why, key)
	}
}
