package qcow2_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

// osFile is a file as a [qcow2.Source].
type osFile struct{ *os.File }

func (f osFile) Size() int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// openImage opens an image file; files below it are looked for beside it.
func openImage(t testing.TB, path string) (*qcow2.Image, qcow2.DiskOptions) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	img, err := qcow2.Open(f, osFile{f}.Size())
	require.NoError(t, err)
	files := qcow2.Files{Open: func(from, name string) (qcow2.Source, string, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(from), name)
		}
		f, err := os.Open(name)
		return osFile{f}, name, err
	}}
	return img, files.DiskOptions(path)
}

// createImage makes an image with qemu-img and changes it with qemu-io.
func createImage(t testing.TB, options, size string, commands ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.qcow2")
	args := []string{"create", "-q", "-f", "qcow2"}
	if options != "" {
		args = append(args, "-o", options)
	}
	qemutest.Img(t, append(args, path, size)...)
	if len(commands) > 0 {
		qemutest.IO(t, path, commands...)
	}
	return path
}

// guestWrites gives n qemu-io commands that write, zero and discard pieces of
// at most max bytes of a disk of size bytes, the same for the same seed.
func guestWrites(seed uint64, n int, size, max int64, zeros bool) []string {
	r := rand.New(rand.NewPCG(seed, 1))
	var out []string
	for range n {
		off := r.Int64N(size/512) * 512
		length := min(size-off, (1+r.Int64N(max/512))*512)
		switch k := r.IntN(6); {
		case k == 0 && zeros:
			out = append(out, fmt.Sprintf("write -z %d %d", off, length))
		case k == 1 && zeros:
			out = append(out, fmt.Sprintf("write -z -u %d %d", off, length))
		case k == 2:
			out = append(out, fmt.Sprintf("discard %d %d", off, length))
		default:
			out = append(out, fmt.Sprintf("write -P %d %d %d", 1+r.IntN(255), off, length))
		}
	}
	return out
}

// requireSameAsQEMU compares a disk with what qemu-img convert makes of it.
func requireSameAsQEMU(t testing.TB, d *qcow2.Disk, path string, convert ...string) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "guest.raw")
	args := append([]string{"convert", "-q", "-f", "qcow2", "-O", "raw"}, convert...)
	qemutest.Img(t, append(args, path, raw)...)
	f, err := os.Open(raw)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, osFile{f}.Size(), d.Size())

	// The reads are neither aligned nor of one size.
	want, got := make([]byte, 1<<20), make([]byte, 1<<20)
	for at, n := int64(0), int64(0); at < d.Size(); at += n {
		n = min(d.Size()-at, 1+(at/7+777)%int64(len(got)))
		_, err := f.ReadAt(want[:n], at)
		require.NoError(t, err)
		_, err = d.ReadAt(got[:n], at)
		require.NoError(t, err)
		if !bytes.Equal(want[:n], got[:n]) {
			i := int64(0)
			for want[i] == got[i] {
				i++
			}
			require.Failf(t, "other bytes", "from guest offset %#x: %#x, QEMU has %#x", at+i, got[i], want[i])
		}
	}
	n, err := d.ReadAt(got[:1], d.Size())
	assert.Equal(t, 0, n)
	assert.Equal(t, io.EOF, err)
}

// mapped is an extent in the terms that qemu-img map and Disk.Map share.
type mapped struct {
	start, length int64
	kind          qcow2.GuestKind
	host          int64 // of data
}

func appendMapped(all []mapped, x mapped) []mapped {
	if n := len(all); n > 0 {
		last := &all[n-1]
		if last.kind == x.kind && last.start+last.length == x.start &&
			(x.kind != qcow2.GuestData || last.host+last.length == x.host) {
			last.length += x.length
			return all
		}
	}
	return append(all, x)
}

func requireSameMapAsQEMU(t testing.TB, d *qcow2.Disk, path string) {
	t.Helper()
	var want, got []mapped
	for _, e := range qemutest.Map(t, path) {
		if e.Length == 0 { // a disk of size 0
			continue
		}
		x := mapped{start: e.Start, length: e.Length}
		switch {
		case e.Depth > 0 || !e.Present:
		case e.Data && e.Offset != nil:
			x.kind, x.host = qcow2.GuestData, *e.Offset
		case e.Data:
			x.kind = qcow2.GuestCompressed
		case e.Zero:
			x.kind = qcow2.GuestZero
		}
		want = appendMapped(want, x)
	}
	next := qcow2.GuestOffset(0)
	for e, err := range d.Map(0, qcow2.GuestOffset(d.Size())) {
		require.NoError(t, err)
		require.Equal(t, next, e.Start, "gap or overlap")
		next += qcow2.GuestOffset(e.Length)
		x := mapped{start: int64(e.Start), length: int64(e.Length), kind: e.Kind}
		if e.Kind == qcow2.GuestData {
			x.host = int64(e.Host)
		}
		got = appendMapped(got, x)
	}
	require.EqualValues(t, d.Size(), next)
	require.Equal(t, want, got)
}

func TestGuestDataLikeQEMU(t *testing.T) {
	qemutest.Require(t)
	const mib = 1 << 20
	for _, tc := range []struct {
		name, options, size string
		commands            []string
	}{
		{name: "empty", size: "10M"},
		{name: "of size 0", size: "0"},
		{name: "plain", size: "16M", commands: guestWrites(1, 60, 16*mib, mib, true)},
		{name: "odd size", size: "1000001", commands: guestWrites(2, 30, 1000000, 50000, true)},
		{name: "version 2", options: "compat=0.10", size: "16M", commands: guestWrites(3, 60, 16*mib, mib, true)},
		{name: "clusters of 512 B", options: "cluster_size=512", size: "1M", commands: guestWrites(4, 60, mib, 40000, true)},
		{name: "clusters of 2 MiB", options: "cluster_size=2M", size: "65M", commands: guestWrites(5, 40, 65*mib, 3*mib, true)},
		{name: "extended L2", options: "extended_l2=on,cluster_size=128k", size: "16M", commands: guestWrites(6, 150, 16*mib, 100000, true)},
		{name: "extended L2, clusters of 16 KiB", options: "extended_l2=on,cluster_size=16k", size: "4M", commands: guestWrites(7, 150, 4*mib, 20000, true)},
		{name: "preallocated metadata", options: "preallocation=metadata", size: "8M", commands: guestWrites(8, 20, 8*mib, mib, true)},
		{name: "preallocated", options: "preallocation=falloc", size: "4M", commands: guestWrites(9, 10, 4*mib, mib, true)},
		{name: "preallocated, extended L2", options: "preallocation=metadata,extended_l2=on", size: "4M", commands: guestWrites(9, 10, 4*mib, mib, false)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := createImage(t, tc.options, tc.size, tc.commands...)
			img, opts := openImage(t, path)
			d, err := img.ActiveDisk(opts)
			require.NoError(t, err)
			requireSameAsQEMU(t, d, path)
			requireSameMapAsQEMU(t, d, path)
		})
	}
}

func TestCompressedDataLikeQEMU(t *testing.T) {
	qemutest.Require(t)
	raw := filepath.Join(t.TempDir(), "source.raw")
	data := append(text(1, 3<<20), noise(2, 1<<20)...)
	clear(data[1<<20 : 1<<20+300000])
	require.NoError(t, os.WriteFile(raw, append(data, text(3, 100000)...), 0o600))
	for _, options := range []string{
		"compression_type=zlib", "compression_type=zstd",
		"compression_type=zlib,cluster_size=512", "compression_type=zstd,cluster_size=512",
		"compression_type=zlib,cluster_size=2M", "compression_type=zstd,cluster_size=2M",
		"compression_type=zstd,extended_l2=on", "compat=0.10",
	} {
		t.Run(options, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image.qcow2")
			qemutest.Img(t, "convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
			qemutest.IO(t, path, guestWrites(4, 5, 4<<20, 30000, true)...)
			img, opts := openImage(t, path)
			d, err := img.ActiveDisk(opts)
			require.NoError(t, err)
			requireSameAsQEMU(t, d, path)
			requireSameMapAsQEMU(t, d, path)
			for x, err := range d.Map(0, qcow2.GuestOffset(d.Size())) {
				require.NoError(t, err)
				if x.Kind == qcow2.GuestCompressed {
					assert.NotZero(t, x.HostLength)
					assert.LessOrEqual(t, uint64(x.Host)+x.HostLength, uint64(img.Size())+511)
				}
			}
		})
	}
}

func TestSnapshotDataLikeQEMU(t *testing.T) {
	qemutest.Require(t)
	for _, options := range []string{"", "compat=0.10", "extended_l2=on", "cluster_size=512"} {
		t.Run(options, func(t *testing.T) {
			path := createImage(t, options, "2M", guestWrites(1, 20, 2<<20, 100000, true)...)
			for i := range 3 {
				qemutest.Img(t, "snapshot", "-c", fmt.Sprintf("snap%d", i), path)
				qemutest.IO(t, path, guestWrites(uint64(2+i), 10, 2<<20, 100000, true)...)
			}
			img, opts := openImage(t, path)
			table := qcow2.ReadSnapshotTable(img)
			require.Equal(t, qcow2.TableStop{Index: 3}, table.Stop)
			for _, s := range table.Snapshots {
				d, err := img.SnapshotDisk(&s, opts)
				require.NoError(t, err)
				requireSameAsQEMU(t, d, path, "-l", string(s.Name))
				assert.Zero(t, d.VMState().Size())
			}
			d, err := img.ActiveDisk(opts)
			require.NoError(t, err)
			requireSameAsQEMU(t, d, path)
			requireSameMapAsQEMU(t, d, path)
		})
	}
	t.Run("image resized after the snapshot", func(t *testing.T) {
		path := createImage(t, "", "1M", "write -P 1 0 1M")
		qemutest.Img(t, "snapshot", "-c", "small", path)
		qemutest.Img(t, "resize", "-q", "-f", "qcow2", path, "3M")
		qemutest.IO(t, path, "write -P 2 512k 2M")
		img, opts := openImage(t, path)
		d, err := img.SnapshotDisk(&qcow2.ReadSnapshotTable(img).Snapshots[0], opts)
		require.NoError(t, err)
		require.EqualValues(t, 1<<20, d.Size())
		got := make([]byte, 1<<20)
		_, err = d.ReadAt(got, 0)
		require.NoError(t, err)
		assert.Equal(t, bytes.Repeat([]byte{1}, 1<<20), got)
	})
}

func TestVMState(t *testing.T) {
	qemutest.Require(t, qemutest.QemuSystem)
	path := createImage(t, "", "10M", "write -P 1 0 1M")
	vm := qemutest.StartSystem(t, 8)
	vm.Open(qemutest.Disk, path, nil)
	vm.SaveVM("state")
	vm.Quit()

	img, opts := openImage(t, path)
	d, err := img.SnapshotDisk(&qcow2.ReadSnapshotTable(img).Snapshots[0], opts)
	require.NoError(t, err)
	off, ok := d.VMStateOffset()
	require.True(t, ok)
	assert.EqualValues(t, 512<<20, off)
	state, err := io.ReadAll(d.VMState())
	require.NoError(t, err)
	assert.EqualValues(t, qemutest.Info(t, path).Snapshots[0].VMStateSize, len(state))
	assert.Equal(t, "QEVM", string(state[:4]), "the magic of QEMU's migration stream")
	for x, err := range d.Map(off, off+qcow2.GuestOffset(len(state))) {
		require.NoError(t, err)
		assert.Equal(t, qcow2.GuestData, x.Kind)
	}
	requireSameAsQEMU(t, d, path, "-l", "state")
}

func TestExternalDataFileLikeQEMU(t *testing.T) {
	qemutest.Require(t)
	for _, options := range []string{"data_file=data.bin", "data_file=data.bin,data_file_raw=on", "data_file=data.bin,extended_l2=on"} {
		t.Run(options, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "image.qcow2")
			t.Chdir(dir)
			qemutest.Img(t, "create", "-q", "-f", "qcow2", "-o", options, path, "4M")
			qemutest.IO(t, path, append(guestWrites(1, 30, 4<<20, 200000, true), "write -P 9 0 64k")...)
			img, opts := openImage(t, path)
			d, err := img.ActiveDisk(opts)
			require.NoError(t, err)
			requireSameAsQEMU(t, d, path)
			requireSameMapAsQEMU(t, d, path)

			// Without the data file, what is not in it can still be read.
			d, err = img.ActiveDisk(qcow2.DiskOptions{})
			require.NoError(t, err)
			for x, err := range d.Map(0, qcow2.GuestOffset(d.Size())) {
				require.NoError(t, err)
				_, err = d.ReadAt(make([]byte, x.Length), int64(x.Start))
				if x.Kind != qcow2.GuestData {
					require.NoError(t, err)
					continue
				}
				var ge *qcow2.GuestError
				require.ErrorAs(t, err, &ge)
				assert.Equal(t, qcow2.ProblemDataFile, ge.Problem)
				assert.Equal(t, x.Start, ge.Start)
				assert.ErrorIs(t, err, qcow2.ErrNotGiven)
			}
			require.NoError(t, d.Close())
		})
	}
}

func TestBackingChainLikeQEMU(t *testing.T) {
	qemutest.Require(t)
	for _, options := range []string{"", ",extended_l2=on", ",cluster_size=512", ",compat=0.10"} {
		t.Run(options, func(t *testing.T) {
			dir := t.TempDir()
			file := func(name string) string { return filepath.Join(dir, name) }
			require.NoError(t, os.WriteFile(file("base.raw"), text(1, 700*512), 0o600))
			qemutest.Img(t, "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", file("middle.qcow2"), "1M")
			qemutest.IO(t, file("middle.qcow2"), guestWrites(2, 6, 1<<20, 60000, true)...)
			qemutest.Img(t, "create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "-o", "size=2M"+options, file("top.qcow2"))
			// The pattern lies in the last bytes that the backing file does not have, too.
			qemutest.IO(t, file("top.qcow2"), guestWrites(3, 12, 2<<20, 60000, options != ",compat=0.10")...)

			img, opts := openImage(t, file("top.qcow2"))
			d, err := img.ActiveDisk(opts)
			require.NoError(t, err)
			requireSameAsQEMU(t, d, file("top.qcow2"))
			requireSameMapAsQEMU(t, d, file("top.qcow2"))
			require.NoError(t, d.Close())
		})
	}
}

func TestEncryptedGuestData(t *testing.T) {
	qemutest.Require(t)
	path := filepath.Join(t.TempDir(), "image.qcow2")
	secret := []string{"--object", "secret,id=s,data=geheim"}
	args := append([]string{"create", "-q", "-f", "qcow2"}, secret...)
	qemutest.Img(t, append(args, "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, "4M")...)
	qemutest.IOArgs(t, append(secret, "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename="+path),
		"write -P 1 64k 64k", "write -z 1M 64k")
	img, opts := openImage(t, path)
	d, err := img.ActiveDisk(opts)
	require.NoError(t, err)
	for _, tc := range []struct {
		off  int64
		kind qcow2.GuestKind
	}{{0, qcow2.GuestUnallocated}, {1 << 20, qcow2.GuestZero}} {
		b := []byte{1}
		_, err = d.ReadAt(b, tc.off)
		require.NoError(t, err)
		assert.Equal(t, []byte{0}, b)
		for x, err := range d.Map(qcow2.GuestOffset(tc.off), qcow2.GuestOffset(tc.off+1)) {
			require.NoError(t, err)
			assert.Equal(t, tc.kind, x.Kind)
		}
	}
	n, err := d.ReadAt(make([]byte, 100000), 50000)
	var ge *qcow2.GuestError
	require.ErrorAs(t, err, &ge)
	assert.Equal(t, 65536-50000, n, "what precedes the encrypted cluster is read")
	assert.Equal(t, qcow2.ProblemEncrypted, ge.Problem)
	assert.EqualValues(t, 65536, ge.Start)
}
