package metadump_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/metadump"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// TestKeys holds that with the copy of an image that QEMU has encrypted nobody gets at its
// key, not even with the right passphrase.
func TestKeys(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	dir := t.TempDir()
	image, copied := filepath.Join(dir, "luks.qcow2"), filepath.Join(dir, "copy.qcow2")
	secret := []string{"--object", "secret,id=s,data=passphrase"}
	convert := func(file string) qemutest.Result {
		return qemutest.Run(t, qemutest.QemuImg, "convert", secret[0], secret[1], "--image-opts",
			"driver=qcow2,encrypt.key-secret=s,file.filename="+file, "-O", "raw", filepath.Join(dir, "raw"))
	}
	require.Zero(t, qemutest.Run(t, qemutest.QemuImg, "create", "-q", "-f", "qcow2", secret[0], secret[1],
		"-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", image, "4M").RC)
	require.Zero(t, convert(image).RC, "the passphrase opens the image")

	f, err := os.Open(image)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	d, out := dump(t, f, info.Size(), metadump.Options{})
	assert.Empty(t, d.Result.Findings)
	res, err := metadump.Check(context.Background(), out, out.Size(), metadump.Options{})
	require.NoError(t, err)
	assert.Empty(t, metadump.Differences(d.Result, res))

	img, err := qcow2.Open(f, info.Size())
	require.NoError(t, err)
	x := qcow2.DecodeCryptoExtension(img.Extension(qcow2.ExtCrypto).Data)
	original, kept := make([]byte, x.Length), make([]byte, x.Length)
	_, err = f.ReadAt(original, int64(x.Offset))
	require.NoError(t, err)
	_, err = out.ReadAt(kept, int64(x.Offset))
	require.NoError(t, err)
	head := qcow2.DecodeLUKSHeader(original)
	require.True(t, head.KeySlots[0].Enabled())
	at, n := head.KeySlots[0].Material(head.KeyBytes)
	assert.Positive(t, len(bytes.Trim(original[at:at+n], "\x00")))
	assert.Empty(t, bytes.Trim(kept[qcow2.LUKSHeaderSize:], "\x00"), "key slots")
	assert.Empty(t, bytes.Trim(kept[112:164], "\x00"), "the digest of the master key, and its salt")
	assert.Equal(t, original[:112], kept[:112], "what a check reads")

	to, err := os.Create(copied)
	require.NoError(t, err)
	_, err = io.Copy(to, io.NewSectionReader(out, 0, out.Size()))
	require.NoError(t, err)
	require.NoError(t, to.Close())
	assert.Contains(t, convert(copied).Stderr, "Invalid password")
}

// TestNames holds that an anonymized copy has none of the names, and tells them apart all
// the same.
func TestNames(t *testing.T) {
	t.Parallel()
	spec := corpus.Spec{
		Size: 8 << 20, Backing: &corpus.Backing{Name: "secret-base.qcow2", Format: "raw"},
		Ops: []corpus.Op{corpus.Write{Length: 1 << 20, Pattern: 1, Stamp: true}, corpus.Snapshot{ID: "1", Name: "secret-snap"},
			corpus.Snapshot{ID: "secret-id", Name: "secret-snap"}},
		Bitmaps: []corpus.Bitmap{{Name: "secret-1"}, {Name: "secret-2", Auto: true}},
	}
	img, err := corpus.Build(spec)
	require.NoError(t, err)
	d, out := dump(t, img, img.Size(), metadump.Options{Anonymize: true})
	all := make([]byte, out.Size())
	out.ReadAt(all, 0)
	assert.NotContains(t, string(all), "secret")
	res, err := metadump.Check(context.Background(), out, out.Size(), metadump.Options{})
	require.NoError(t, err)
	assert.Empty(t, metadump.Differences(d.Result, res))
	require.Len(t, res.Bitmaps, 2)
	assert.NotEqual(t, res.Bitmaps[0].Name, res.Bitmaps[1].Name)
	assert.Len(t, res.Bitmaps[0].Name, len("secret-1"))
	require.Len(t, res.Snapshots, 2)
	assert.Equal(t, "1", res.Snapshots[0].ID)
	assert.Equal(t, res.Snapshots[0].Name, res.Snapshots[1].Name, "the same name is the same name")

	rec, err := d.Record(context.Background())
	require.NoError(t, err)
	err = rec.Changes(context.Background(), img, img.Size(), out, out.Size(), nil)
	assert.ErrorIs(t, err, metadump.ErrAnonymized)
}

// TestChanges holds that a copy goes back into the image that it was made of, as it is, and
// into no other.
func TestChanges(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c := corpus.Samples()[2]
	img, err := c.Build()
	require.NoError(t, err)
	d, out := dump(t, img, img.Size(), metadump.Options{})
	rec, err := d.Record(ctx)
	require.NoError(t, err)
	var places []qcow2.HostOffset
	note := func(off qcow2.HostOffset, _ []byte) { places = append(places, off) }
	require.NoError(t, rec.Changes(ctx, img, img.Size(), out, out.Size(), note))
	assert.Empty(t, places)

	out.WriteAt([]byte{0xaa}, int64(qcow2.FieldSize))
	require.NoError(t, rec.Changes(ctx, img, img.Size(), out, out.Size(), note))
	assert.Equal(t, []qcow2.HostOffset{0}, places)

	img.WriteAt([]byte{0xaa}, int64(qcow2.FieldSize))
	assert.ErrorIs(t, rec.Changes(ctx, img, img.Size(), out, out.Size(), note), metadump.ErrOther, "the image has changed")
	other, err := corpus.Samples()[0].Build()
	require.NoError(t, err)
	assert.ErrorIs(t, rec.Changes(ctx, other, other.Size(), out, out.Size(), note), metadump.ErrOther)
}
