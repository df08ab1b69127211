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
