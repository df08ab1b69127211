package check

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// randomOpens is how many damaged images TestQEMUOpenRandom has QEMU open. With a
// hundred times as many the prediction was right for all but damage to what names
// the backing file.
const randomOpens = 60

// Damage at random places of the header and the tables that QEMU reads when it
// opens an image: the prediction is what QEMU does.
func TestQEMUOpenRandom(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	create := func(name, options string) {
		qemutest.Img(t, "create", "-q", "-f", "qcow2", "-o", options, path(name), "64M")
	}
	create("bitmaps", "cluster_size=4096")
	qemutest.AddImageBitmap(t, path("bitmaps"), "b0", 65536, false)
	qemutest.AddImageBitmap(t, path("bitmaps"), "abcdefghijkl", 512, true)
	qemutest.IO(t, path("bitmaps"), "write 0 1M")
	create("small", "cluster_size=512")
	qemutest.AddImageBitmap(t, path("small"), "b0", 65536, false)
	qemutest.Img(t, "snapshot", "-c", "first", path("small"))
	create("v2", "cluster_size=4096,compat=0.10")
	qemutest.Img(t, "snapshot", "-c", "first", path("v2"))
	names := []string{"bitmaps", "small", "v2"}

	r := rand.New(rand.NewPCG(1, 2))
	for i := range randomOpens {
		name := names[i%len(names)]
		whole, err := os.ReadFile(path(name))
		require.NoError(t, err)
		img, err := qcow2.Open(bytes.NewReader(whole), int64(len(whole)))
		require.NoError(t, err)
		targets := openTargets(img)
		b := bytes.Clone(whole)
		var done []string
		for range 1 + r.IntN(2) {
			x := targets[r.IntN(len(targets))]
			off := int(x.Offset) + r.IntN(int(x.Length))
			was := b[off]
			switch r.IntN(3) {
			case 0:
				b[off] ^= 1 << r.IntN(8)
			case 1:
				b[off] = byte(r.IntN(256))
			case 2:
				b[off]++
			}
			done = append(done, fmt.Sprintf("%s at %d: %02x to %02x", name, off, was, b[off]))
		}
		if h, _ := qcow2.DecodeHeader(b); h.CryptMethod == qcow2.CryptAES {
			continue // which is taken to open for those who have the key
		}
		file := path("damaged")
		require.NoError(t, os.WriteFile(file, b, 0o600))
		want := predictFile(t, file).QEMUOpen
		if want.ReadWrite == OpenDropsBitmaps && !validBitmaps(t, file) {
			continue // stale to begin with: what tryOpen calls lost was lost before
		}
		ro, roSaid := tryOpen(t, file, "", false)
		require.NoError(t, os.WriteFile(file, b, 0o600))
		rw, rwSaid := tryOpen(t, file, "", true)
		said := fmt.Sprintf("%s\npredicted because: %s\n%v\n%v", strings.Join(done, ", "), strings.Join(want.Reasons, "; "), roSaid, rwSaid)
		assert.Equal(t, ro, want.ReadOnly, "read-only: %s", said)
		assert.Equal(t, rw, want.ReadWrite, "read-write: %s", said)
	}
}

// openTargets gives the bytes that QEMU looks at when it opens an image.
func openTargets(img *qcow2.Image) []qcow2.Extent {
	xs := []qcow2.Extent{at(4, 108), at(4, 108), at(112, 60)}
	if ext := img.Extension(qcow2.ExtBitmaps); ext != nil {
		x := qcow2.DecodeBitmapsExtension(ext.Data)
		d := qcow2.ReadBitmapDirectory(img, x)
		xs = append(xs, at(ext.Offset, 32), at(x.DirectoryOffset, x.DirectorySize))
		for _, e := range d.Entries {
			xs = append(xs, at(e.TableOffset, uint64(e.TableSize)*8))
		}
	}
	if img.Header.NbSnapshots > 0 {
		xs = append(xs, at(img.Header.SnapshotsOffset, qcow2.SnapshotHeadSize))
	}
	return xs
}
