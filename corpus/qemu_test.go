package corpus_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// convertMax bounds the guest data that is compared byte for byte with what QEMU
// reads.
const convertMax = 128 << 20

// TestQEMUAcceptsHealthyImages has a real QEMU judge what the builder makes: its
// check is clean, it opens the image for writing, and the guest's data is what
// was written.
func TestQEMUAcceptsHealthyImages(t *testing.T) {
	t.Parallel()
	qemutest.Require(t)
	for _, c := range corpus.Cases() {
		if !c.Healthy() || c.Huge || c.QEMUSlow || !c.QEMU.Checked || c.QEMU.Check != 0 {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			img, err := c.Build()
			require.NoError(t, err)
			path := writeImage(t, &c, img)
			access := accessArgs(&c, path)

			check := qemutest.Check(t, "", access...)
			assert.Equal(t, 0, check.RC, check.Stderr)
			assert.Zero(t, check.Leaks+check.Corruptions+check.CheckErrors)

			if img.Guest().Size() <= convertMax {
				compareGuest(t, img.Guest(), access)
			}
			qemutest.IOArgs(t, access, "read 0 0")
			assert.Equal(t, 0, qemutest.Check(t, "", access...).RC, "after opening it for writing")
		})
	}
}

// accessArgs are the arguments with which QEMU opens a case's image.
func accessArgs(c *corpus.Case, path string) []string {
	opts := "driver=qcow2,file.driver=file,file.filename=" + path
	encrypted, method := true, c.Spec.Crypt
	if strings.HasPrefix(c.Name, "encryption/not-encrypted") {
		method = qcow2.CryptAES // as it says
	}
	switch method {
	case qcow2.CryptLUKS:
		opts += ",encrypt.format=luks,encrypt.key-secret=s"
	case qcow2.CryptAES:
		opts += ",encrypt.format=aes,encrypt.key-secret=s"
	default:
		encrypted = false
	}
	d := c.Spec.DataFile
	named := d != nil && d.Name != "" && !strings.HasPrefix(c.Name, "data-file/name-") // where it is the name that is damaged
	if named {
		// QEMU looks for it in the working directory, not beside the image.
		opts += ",data-file.driver=file,data-file.filename=" + filepath.Join(filepath.Dir(path), d.Name)
	}
	switch {
	case encrypted:
		return []string{"--object", "secret,id=s,data=" + corpus.Secret, "--image-opts", opts}
	case named:
		return []string{"--image-opts", opts}
	}
	// A backing file is looked for beside an image that is given by its path.
	return []string{"-f", "qcow2", path}
}

func writeImage(t *testing.T, c *corpus.Case, img *corpus.Image) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, c.Filename())
	require.NoError(t, img.WriteFile(path))
	for name, s := range img.Siblings {
		require.NoError(t, s.WriteFile(filepath.Join(dir, name)))
	}
	return path
}

// compareGuest compares the guest data, as QEMU converts it to a raw file, with
// what it must be.
func compareGuest(t *testing.T, want *corpus.Store, access []string) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	args := append([]string{"convert"}, access...)
	qemutest.Img(t, append(args, "-O", "raw", raw)...)
	f, err := os.Open(raw)
	require.NoError(t, err)
	defer f.Close()
	defer os.Remove(raw)
	st, err := f.Stat()
	require.NoError(t, err)
	require.Equal(t, want.Size()&^511, st.Size())
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < st.Size(); off += int64(len(a)) {
		n, err := f.ReadAt(a, off)
		if err != io.EOF {
			require.NoError(t, err)
		}
		m, _ := want.ReadAt(b[:n], off)
		if !bytes.Equal(a[:n], b[:m]) {
			for i := range n {
				if a[i] != b[i] {
					t.Fatalf("guest byte %#x is %#x, not %#x", off+int64(i), a[i], b[i])
				}
			}
		}
	}
}
