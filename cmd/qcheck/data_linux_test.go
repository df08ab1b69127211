package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// A compressed cluster is called damaged if QEMU cannot read it, whatever was changed in it.
// With zlib the reverse holds as well. With zstd it does not: newer versions of its library
// do not look whether a bitstream ends where it should, and QEMU hands on what is no data.
func TestCompressedDataAsQEMUReadsIt(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	for _, method := range []string{"zlib", "zstd"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			const cs, clusters = 4096, 120
			dir := t.TempDir()
			raw, path := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
			random := rand.New(rand.NewPCG(1, 2))
			content := make([]byte, cs*clusters)
			for i := range content {
				content[i] = byte("the quick brown fox"[random.IntN(19)])
			}
			require.NoError(t, os.WriteFile(raw, content, 0o666))
			qemutest.Img(t, "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k,compression_type="+method, raw, path)

			data, err := os.ReadFile(path)
			require.NoError(t, err)
			img, err := qcow2.Open(strings.NewReader(string(data)), int64(len(data)))
			require.NoError(t, err)
			disk, err := img.ActiveDisk(qcow2.DiskOptions{})
			require.NoError(t, err)
			packed := 0
			for x, err := range disk.Map(0, cs*clusters) {
				require.NoError(t, err)
				if x.Kind != qcow2.GuestCompressed {
					continue
				}
				packed++
				switch n := uint64(x.Start) / cs; n % 4 {
				case 1: // one bit anywhere in it
					data[uint64(x.Host)+uint64(random.IntN(1500))] ^= 1 << random.IntN(8)
				case 2: // overwritten from some place on
					at := uint64(x.Host) + uint64(random.IntN(1500))
					clear(data[at : at+64])
				case 3:
					data[x.Host] ^= byte(1 << random.IntN(8))
				}
			}
			assert.Greater(t, packed, clusters/2)
			require.NoError(t, os.WriteFile(path, data, 0o666))

			c, code := checkJSON(t, "--data", "--max-findings", "1000", path)
			assert.Equal(t, 2, code)
			found, why := make(map[int]bool), make(map[int]string)
			for _, f := range c.Findings {
				if assert.Equal(t, "CMP001", f.Code) {
					for i := range f.Count {
						found[f.GuestOffset/cs+i] = true
						why[f.GuestOffset/cs+i] = f.Message
					}
				}
			}
			assert.Greater(t, len(found), 10)
			assert.Less(t, len(found), packed*3/4)
			for i := range clusters {
				one := qemutest.Run(t, qemutest.QemuIO, "-r", "-f", "qcow2", path, "-c", fmt.Sprintf("read %d %d", i*cs, cs))
				fails := strings.Contains(one.Stdout+one.Stderr, "read failed")
				if assert.True(t, found[i] || !fails, "cluster %d", i) && method == "zlib" {
					assert.Equal(t, fails, found[i], "cluster %d %s", i, why[i])
				}
			}
			assert.Equal(t, 0, qemutest.Check(t, path).RC, "qemu-img check does not look")
		})
	}
}

// punch makes a hole in a file.
func punch(t *testing.T, f *os.File, off, length int64) {
	t.Helper()
	require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length))
}

// What a file system does not store, of an image that QEMU has written: nothing where all of
// it was written, and what a hole was punched into otherwise.
func TestHolesOfAWrittenImage(t *testing.T) {
	t.Parallel()
	path := newImage(t, "16M")
	qemutest.Run(t, qemutest.QemuIO, "-f", "qcow2", path, "-c", "write -P 7 0 4M", "-c", "flush")
	c, code := checkJSON(t, "--data", path)
	assert.Equal(t, 0, code)
	assert.Empty(t, c.Findings)

	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	img, err := qcow2.Open(f, 1<<30)
	require.NoError(t, err)
	disk, err := img.ActiveDisk(qcow2.DiskOptions{})
	require.NoError(t, err)
	for x, err := range disk.Map(1<<20, 1<<20+1) {
		require.NoError(t, err)
		punch(t, f, int64(x.Host), 65536)
	}
	c, code = checkJSON(t, "--data", path)
	assert.Equal(t, 0, code)
	if assert.Len(t, c.Findings, 1) {
		assert.Equal(t, "MAP023", c.Findings[0].Code)
		assert.Equal(t, "warning", c.Findings[0].Severity)
		assert.Equal(t, 1<<20, c.Findings[0].GuestOffset)
	}
}
