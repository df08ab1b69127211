package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// minimalImage describes a small sound image: header, refcount table, one refcount
// block, L1 table, in this order, a cluster each, and nothing allocated. The
// zero value is version 3 with clusters of 64 KiB and a disk of 1 MiB.
type minimalImage struct {
	version     uint32 // 0: 3
	clusterBits uint32 // 0: 16
	size        uint64 // 0: 1 MiB
	order       *uint32
	header      func(*qcow2.Header) // the last word on the header, if not nil
	exts        [][]byte            // encoded extensions
	backing     string              // stands behind the extensions
	extra       uint64              // further clusters in use, at the end
}

// Clusters of a minimalImage.
const (
	minRefTable = 1
	minRefBlock = 2
	minL1       = 3
	minExtra    = 4
)

// clusterSize is the size of its clusters in bytes.
func (x minimalImage) clusterSize() int {
	if x.clusterBits == 0 {
		return 1 << 16
	}
	return 1 << x.clusterBits
}

// bytes gives the image file.
func (x minimalImage) bytes(t testing.TB) []byte {
	t.Helper()
	cs := x.clusterSize()
	h := qcow2.Header{
		Version: 3, ClusterBits: 16, Size: 1 << 20, RefcountOrder: 4, HeaderLength: qcow2.HeaderLengthCompression,
		L1TableOffset: qcow2.HostOffset(minL1 * cs), RefcountTableOffset: qcow2.HostOffset(minRefTable * cs), RefcountTableClusters: 1,
	}
	if x.clusterBits != 0 {
		h.ClusterBits = x.clusterBits
	}
	if x.size != 0 {
		h.Size = x.size
	}
	if x.version != 0 {
		h.Version = x.version
	}
	if x.order != nil {
		h.RefcountOrder = *x.order
	}
	if h.Version == 2 {
		h.HeaderLength = qcow2.HeaderLengthV2
	}
	g, ok := h.Geometry()
	require.True(t, ok)
	h.L1Size = uint32(h.L1Needed(g))
	extEnd := int(h.HeaderLength)
	exts := slices.Concat(x.exts...)
	extEnd += len(exts)
	if x.backing != "" {
		extEnd += len(qcow2.EncodeExtension(qcow2.ExtEnd, nil))
		h.BackingFileOffset, h.BackingFileSize = qcow2.HostOffset(extEnd), uint32(len(x.backing))
	}
	require.LessOrEqual(t, extEnd+len(x.backing), cs, "the header must fit into its cluster")
	require.LessOrEqual(t, int(h.L1Size)*8, cs, "the L1 table must fit into its cluster")
	if x.header != nil {
		x.header(&h)
	}

	used := uint64(minExtra) + x.extra
	b := make([]byte, used*uint64(cs))
	copy(b, h.Encode())
	copy(b[h.HeaderLength:], exts)
	copy(b[extEnd:], x.backing)
	binary.BigEndian.PutUint64(b[minRefTable*cs:], uint64(minRefBlock*cs))
	for i := range used {
		g.RefcountBlock(b[minRefBlock*cs:][:cs]).Set(int(i), 1)
	}
	return b
}

// poke overwrites bytes of an image.
func poke(b []byte, off int, with ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[off:], with)
	return b
}

// be gives the lowest n bytes of a number as a header field holds them.
func be(v uint64, n int) []byte {
	b := binary.BigEndian.AppendUint64(nil, v)
	return b[8-n:]
}

// openTest opens an image in memory.
func openTest(t testing.TB, b []byte) *qcow2.Image {
	t.Helper()
	img, err := qcow2.Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	return img
}

// runTest checks an image in memory.
func runTest(t testing.TB, b []byte, opts Options) *Result {
	t.Helper()
	res, err := Run(context.Background(), openTest(t, b), opts)
	require.NoError(t, err)
	requireCounted(t, res)
	return res
}

// requireCounted recounts the totals from the findings.
func requireCounted(t testing.TB, res *Result) {
	t.Helper()
	require.Equal(t, problem.Count(res.Findings), res.Totals)
}

// found is what tests compare of a finding.
type found struct {
	Code   problem.Code
	Offset qcow2.HostOffset
	Length uint64
}

// foundIn gives the findings of a result in its order, of the groups of codes
// that are named ("HDR"), or all.
func foundIn(res *Result, groups ...string) []found {
	out := []found{}
	for _, f := range res.Findings {
		if len(groups) == 0 || slices.Contains(groups, string(f.Code[:3])) {
			out = append(out, found{f.Code, f.Extent.Offset, f.Extent.Length})
		}
	}
	return out
}
