package refcount

import (
	"math/rand/v2"
	"testing"

	"github.com/qcheck/qcheck/qcow2"
)

// tebibyte is the number of clusters of 64 KiB in 1 TiB.
const tebibyte = 1 << 24

// Each benchmark below makes one op of one cluster, so that ns/op is the price
// of a cluster.

func perCluster(b *testing.B, clusters int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(clusters), "ns/cluster")
}

// A table of 8,192 entries that map one after another, table after table.
func BenchmarkClaimContiguous(b *testing.B) {
	for b.Loop() {
		k := New(Options{}).Claimer()
		for first := qcow2.HostCluster(0); first < tebibyte; first += 8192 {
			if err := k.ClaimCopied(first, 8192, 1, true); err != nil {
				b.Fatal(err)
			}
		}
	}
	perCluster(b, tebibyte)
}

// The same in planes: runs of 64, as many short runs as clusters of 512 bytes
// make.
func BenchmarkClaimRuns64(b *testing.B) {
	for b.Loop() {
		k := New(Options{}).Claimer()
		for first := qcow2.HostCluster(0); first < tebibyte; first += 64 {
			if err := k.ClaimCopied(first, 64, 1, true); err != nil {
				b.Fatal(err)
			}
		}
	}
	perCluster(b, tebibyte)
}

func benchmarkShuffled(b *testing.B, marks Marks, times uint64) {
	order := make([]uint32, tebibyte)
	for i, c := range rand.New(rand.NewPCG(1, 2)).Perm(tebibyte) {
		order[i] = uint32(c)
	}
	var c *Counts
	for b.Loop() {
		c = New(Options{})
		k := c.Claimer()
		for _, cluster := range order {
			if err := k.ClaimMarked(qcow2.HostCluster(cluster), 1, times, marks); err != nil {
				b.Fatal(err)
			}
		}
	}
	perCluster(b, tebibyte)
	b.ReportMetric(float64(c.Memory())*8/tebibyte, "bits/cluster")
}

func BenchmarkClaimShuffled(b *testing.B)        { benchmarkShuffled(b, 0, 1) }
func BenchmarkClaimShuffledCopied(b *testing.B)  { benchmarkShuffled(b, MarkCopied, 1) }
func BenchmarkClaimShuffledTwice(b *testing.B)   { benchmarkShuffled(b, MarkCopied, 2) }
func BenchmarkClaimShuffledHundred(b *testing.B) { benchmarkShuffled(b, MarkCopied, 101) }

// All within one chunk, and so without a cache miss.
func BenchmarkClaimSinglesNear(b *testing.B) {
	order := rand.New(rand.NewPCG(1, 2)).Perm(chunkClusters)
	for b.Loop() {
		k := New(Options{}).Claimer()
		for _, cluster := range order {
			if err := k.Claim(qcow2.HostCluster(cluster), 1, 1); err != nil {
				b.Fatal(err)
			}
		}
	}
	perCluster(b, chunkClusters)
}

// compareScene makes 1 TiB with 16-bit refcounts, all of them 1, in memory.
func compareScene(b *testing.B, order uint, claim func(k *Claimer)) (*Counts, *Table) {
	g := qcow2.Geometry{ClusterBits: 16, RefcountOrder: order}
	c := New(Options{})
	claim(c.Claimer())
	raw := make([]byte, g.ClusterSize())
	rc := g.RefcountBlock(raw)
	for i := range rc.Len() {
		rc.Set(i, 1)
	}
	f := &memFile{cluster: len(raw), blocks: map[qcow2.HostOffset][]byte{}}
	var blocks []Block
	for i := range uint64(tebibyte) / g.RefcountBlockEntries() {
		offset := qcow2.HostOffset(1+2*i) << 16
		f.blocks[offset] = raw
		blocks = append(blocks, Block{Index: i, Offset: offset})
	}
	return c, NewTable(f, g, blocks, nil)
}

func benchmarkCompare(b *testing.B, order uint, claim func(k *Claimer)) {
	c, table := compareScene(b, order, claim)
	var totals Totals
	for b.Loop() {
		var err error
		if totals, err = Compare(b.Context(), c, table, CompareOptions{Jobs: 1}); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(totals.Bytes))
	perCluster(b, tebibyte)
}

func claimAll(k *Claimer) { _ = k.Claim(0, tebibyte, 1) }

// claimPlanes claims all clusters in so many claims that there are bit planes.
func claimPlanes(k *Claimer) {
	for first := qcow2.HostCluster(0); first < tebibyte; first += 256 {
		_ = k.Claim(first, 256, 1)
	}
}

// claimHalf leaves out every other cluster.
func claimHalf(k *Claimer) {
	for cluster := qcow2.HostCluster(0); cluster < tebibyte; cluster += 2 {
		_ = k.Claim(cluster, 1, 1)
	}
}

func BenchmarkCompare16(b *testing.B)       { benchmarkCompare(b, 4, claimAll) }
func BenchmarkCompare16Planes(b *testing.B) { benchmarkCompare(b, 4, claimPlanes) }
func BenchmarkCompare1Planes(b *testing.B)  { benchmarkCompare(b, 0, claimPlanes) }
func BenchmarkCompare64Planes(b *testing.B) { benchmarkCompare(b, 6, claimPlanes) }

// Every other cluster a leak: the worst there is.
func BenchmarkCompare16AllDiffer(b *testing.B) { benchmarkCompare(b, 4, claimHalf) }
