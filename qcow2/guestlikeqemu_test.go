package qcow2_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// deflate compresses as raw deflate.
func deflate(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	require.NoError(t, err)
	_, err = w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// zstdFrame compresses into one zstd frame.
func zstdFrame(t testing.TB, data []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, opts...)
	require.NoError(t, err)
	return enc.EncodeAll(data, nil)
}

// noise gives n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// text gives n bytes that compress well but not to nothing.
func text(seed uint64, n int) []byte {
	b := noise(seed, n)
	for i := range b {
		b[i] = "abcdefgh"[b[i]&7] | byte(i>>12)
	}
	return b
}

// TestGuestClusterLikeQEMU reads one strange cluster of an image with QEMU and
// with a Disk: both must give the same bytes, or both fail.
func TestGuestClusterLikeQEMU(t *testing.T) {
	const cs = 65536
	type maker = func(m *guestImage)
	zstdHeader := qcow2.Header{CompressionType: qcow2.CompressionZstd}
	extL2 := qcow2.Header{IncompatibleFeatures: qcow2.IncompatExtendedL2}
	at := func(o qcow2.HostOffset) qcow2.L2Entry { return qcow2.NewL2Entry(o, true, false) }
	for _, tc := range []struct {
		name   string
		header qcow2.Header
		make   maker
		fails  qcow2.GuestProblem
	}{
		{name: "data", make: func(m *guestImage) { m.set(0, at(m.add(m.cluster(1)))) }},
		{name: "zero flag", make: func(m *guestImage) { m.set(0, qcow2.NewL2Entry(0, false, true)) }},
		{name: "zero flag with an offset", make: func(m *guestImage) { m.set(0, qcow2.NewL2Entry(m.add(m.cluster(1)), true, true)) }},
		{name: "zero flag in version 2", header: qcow2.Header{Version: 2}, fails: qcow2.ProblemZeroFlag,
			make: func(m *guestImage) { m.set(0, qcow2.NewL2Entry(m.add(m.cluster(1)), true, true)) }},
		{name: "unaligned data", fails: qcow2.ProblemL2Entry,
			make: func(m *guestImage) { m.set(0, at(m.add(m.cluster(1))+512)) }},
		{name: "unaligned zero", fails: qcow2.ProblemL2Entry,
			make: func(m *guestImage) { m.set(0, qcow2.NewL2Entry(m.add(m.cluster(1))+512, true, true)) }},
		{name: "offset 0, COPIED", make: func(m *guestImage) { m.set(0, at(0)) }},
		{name: "reserved bits", make: func(m *guestImage) { m.set(0, at(m.add(m.cluster(1)))|0x3f000000000001fe) }},
		{name: "past the end", make: func(m *guestImage) { m.set(0, at(1<<40)) }},
		{name: "half of it past the end", make: func(m *guestImage) {
			m.set(0, at(m.add(m.cluster(1))))
			m.file.size -= cs / 2
			m.file.parts[int64(m.next)-cs] = m.cluster(1)[:cs/2]
		}},
		{name: "unaligned L2 table", fails: qcow2.ProblemL1Entry,
			make: func(m *guestImage) { m.file.parts[guestL1*cs] = words(guestL2*cs + 512 | 1<<63) }},
		{name: "L2 table past the end", make: func(m *guestImage) { m.file.parts[guestL1*cs] = words(1<<40 | 1<<63) }},

		{name: "deflate", make: func(m *guestImage) { m.set(0, m.addCompressed(deflate(t, text(1, cs)))) }},
		{name: "deflate, COPIED", make: func(m *guestImage) { m.set(0, m.addCompressed(deflate(t, text(1, cs)))|1<<63) }},
		{name: "deflate, trailing garbage", make: func(m *guestImage) {
			m.set(0, m.addCompressed(append(deflate(t, text(1, cs)), noise(2, 500)...)))
		}},
		{name: "deflate of more than a cluster", make: func(m *guestImage) { m.set(0, m.addCompressed(deflate(t, text(1, cs+5000)))) }},
		{name: "deflate of less than a cluster", fails: qcow2.ProblemDecompress,
			make: func(m *guestImage) { m.set(0, m.addCompressed(deflate(t, text(1, cs-1)))) }},
		{name: "deflate cut", fails: qcow2.ProblemDecompress, make: func(m *guestImage) {
			b := deflate(t, text(1, cs))
			m.set(0, m.addCompressed(b[:len(b)-2000]))
		}},
		{name: "deflate of garbage", fails: qcow2.ProblemDecompress,
			make: func(m *guestImage) { m.set(0, m.addCompressed(bytes.Repeat([]byte{0xff}, 4096))) }},
		{name: "deflate past the end", fails: qcow2.ProblemDecompress,
			make: func(m *guestImage) { m.set(0, 1<<62|1<<40) }},
		{name: "deflate that is missing its last sector", fails: qcow2.ProblemDecompress, make: func(m *guestImage) {
			b := deflate(t, noise(1, cs))
			e := m.addCompressed(b)
			m.set(0, e)
			m.file.size = int64(m.next) - 2*cs + 512
			m.file.parts[int64(m.next)-2*cs] = b[:512]
		}},

		{name: "zstd", header: zstdHeader, make: func(m *guestImage) { m.set(0, m.addCompressed(zstdFrame(t, text(1, cs)))) }},
		{name: "zstd, no checksum, no size", header: zstdHeader, make: func(m *guestImage) {
			m.set(0, m.addCompressed(zstdFrame(t, text(1, cs), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(false))))
		}},
		{name: "zstd with a window of 64 MiB", header: zstdHeader, make: func(m *guestImage) {
			m.set(0, m.addCompressed(zstdFrame(t, text(1, cs), zstd.WithWindowSize(64<<20))))
		}},
		{name: "zstd in two frames", header: zstdHeader, make: func(m *guestImage) {
			b := text(1, cs)
			m.set(0, m.addCompressed(append(zstdFrame(t, b[:1000]), zstdFrame(t, b[1000:])...)))
		}},
		{name: "zstd, trailing garbage", header: zstdHeader, make: func(m *guestImage) {
			m.set(0, m.addCompressed(append(zstdFrame(t, text(1, cs)), noise(2, 500)...)))
		}},
		{name: "zstd, another cluster behind it", header: zstdHeader, make: func(m *guestImage) {
			m.set(0, m.addCompressed(append(zstdFrame(t, text(1, cs)), zstdFrame(t, text(2, cs))[:400]...)))
		}},
		{name: "zstd of more than a cluster", header: zstdHeader, fails: qcow2.ProblemDecompress,
			make: func(m *guestImage) { m.set(0, m.addCompressed(zstdFrame(t, text(1, cs+5000)))) }},
		{name: "zstd of more than a cluster in two frames", header: zstdHeader, fails: qcow2.ProblemDecompress, make: func(m *guestImage) {
			m.set(0, m.addCompressed(append(zstdFrame(t, text(1, 60000)), zstdFrame(t, text(1, 60000))...)))
		}},
		{name: "zstd of less than a cluster", header: zstdHeader, fails: qcow2.ProblemDecompress,
			make: func(m *guestImage) { m.set(0, m.addCompressed(zstdFrame(t, text(1, cs-1)))) }},
		{name: "zstd without an end", header: zstdHeader, fails: qcow2.ProblemDecompress, make: func(m *guestImage) {
			var b bytes.Buffer
			w, err := zstd.NewWriter(&b)
			require.NoError(t, err)
			_, err = w.Write(text(1, cs))
			require.NoError(t, err)
			require.NoError(t, w.Flush())
			m.set(0, m.addCompressed(b.Bytes()))
		}},
		{name: "zstd with a bad checksum", header: zstdHeader, fails: qcow2.ProblemDecompress, make: func(m *guestImage) {
			b := zstdFrame(t, text(1, cs))
			b[len(b)-1] ^= 1
			m.set(0, m.addCompressed(b))
		}},
		{name: "zstd data said to be deflate", fails: qcow2.ProblemDecompress,
			make: func(m *guestImage) { m.set(0, m.addCompressed(zstdFrame(t, text(1, cs)))) }},

		{name: "subclusters of all three kinds", header: extL2, make: func(m *guestImage) {
			m.set(0, at(m.add(text(1, cs))), qcow2.NewSubclusterBitmap(0x0f0f00ff, 0x10100100))
		}},
		{name: "subclusters all unallocated, with an offset", header: extL2, make: func(m *guestImage) { m.set(0, at(m.add(text(1, cs))), 0) }},
		{name: "zero subclusters without an offset", header: extL2,
			make: func(m *guestImage) { m.set(0, 0, qcow2.NewSubclusterBitmap(0, 0xffff)) }},
		{name: "conflict in another subcluster", header: extL2, fails: qcow2.ProblemSubclusters, make: func(m *guestImage) {
			m.set(0, at(m.add(text(1, cs))), qcow2.NewSubclusterBitmap(0xffffffff, 1<<31))
		}},
		{name: "allocated subclusters without an offset", header: extL2, fails: qcow2.ProblemSubclusters,
			make: func(m *guestImage) { m.set(0, 0, qcow2.NewSubclusterBitmap(1<<31, 0)) }},
		{name: "zero flag with extended entries", header: extL2, make: func(m *guestImage) {
			m.set(0, at(m.add(text(1, cs)))|1, qcow2.NewSubclusterBitmap(0xffffffff, 0))
		}},
		{name: "compressed with a subcluster bitmap", header: extL2, make: func(m *guestImage) {
			m.set(0, m.addCompressed(deflate(t, text(1, cs))), qcow2.NewSubclusterBitmap(7, 7))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newGuestImage(tc.header)
			tc.make(m)
			path := m.write(t)

			got := make([]byte, cs)
			_, err := m.disk(t, qcow2.DiskOptions{}).ReadAt(got, 0)
			if tc.fails != 0 {
				var ge *qcow2.GuestError
				require.ErrorAs(t, err, &ge)
				assert.Equal(t, tc.fails, ge.Problem)
				assert.Equal(t, qcow2.GuestOffset(0), ge.Start)
			} else {
				require.NoError(t, err)
			}

			qemutest.Require(t)
			raw := filepath.Join(t.TempDir(), "cluster.raw")
			res := qemutest.Run(t, qemutest.QemuImg, "dd", "-f", "qcow2", "-O", "raw",
				fmt.Sprintf("bs=%d", cs), "count=1", "if="+path, "of="+raw)
			if tc.fails != 0 {
				assert.NotEqual(t, 0, res.RC, "QEMU reads it")
				assert.Contains(t, res.Stderr, "nput/output error")
				return
			}
			require.Equal(t, 0, res.RC, "QEMU: %s", strings.TrimSpace(res.Stderr))
			want, err := os.ReadFile(raw)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(want, got), "other bytes than QEMU's")
		})
	}
}
