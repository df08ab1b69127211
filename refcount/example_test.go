package refcount_test

import (
	"context"
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
	"github.com/qcheck/qcheck/refcount"
)

// file is an image file in memory.
type file []byte

func (f file) ReadAt(p []byte, off qcow2.HostOffset) error {
	clear(p)
	if uint64(off) < uint64(len(f)) {
		copy(p, f[off:])
	}
	return nil
}

func Example() {
	g := qcow2.Geometry{ClusterBits: 16, RefcountOrder: 4}
	image := make(file, 8<<16)
	block := g.RefcountBlock(image[2<<16 : 3<<16]) // cluster 2 is the refcount block
	for i := range 6 {
		block.Set(i, 1)
	}

	counts := refcount.New(refcount.Options{})
	_ = counts.Claim(0, 4, 1)             // header, refcount table, its block, L1 table
	_ = counts.ClaimCopied(4, 1, 1, true) // an L2 table
	_ = counts.ClaimCopied(7, 1, 1, true) // a data cluster
	table := refcount.NewTable(image, g, []refcount.Block{{Index: 0, Offset: 2 << 16}}, nil)
	totals, _ := refcount.Compare(context.Background(), counts, table, refcount.CompareOptions{
		Diff: func(d refcount.Diff) {
			fmt.Printf("%d cluster(s) from %d on: refcount %d, references %d\n", d.N, d.First, d.Refcount, d.References)
		},
	})
	fmt.Println(totals.InFile.Leaked, "leaked,", totals.InFile.Low, "too low")
	// Output:
	// 1 cluster(s) from 5 on: refcount 1, references 0
	// 1 cluster(s) from 7 on: refcount 0, references 1
	// 1 leaked, 1 too low
}
