package qemutest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Case is one kind of image that QEMU makes, as a builder. Cases need nothing of each other, so that tests
// may build them in parallel.
type Case struct {
	// Name is unique in the matrix, of letters, digits, dots and dashes.
	Name string
	// Secret is the passphrase of an encrypted image, without which QEMU does not even check it.
	Secret string
	// InUse names the bitmaps that a killed QEMU left in use, in no order.
	InUse []string

	// needs are programs beyond qemu-img and qemu-io.
	needs []string
	build func(m *maker)
}

// Build makes the image in dir, which must be empty, and returns its path. What the image refers to
// (backing files, a data file) stands in dir as well. The test is skipped if the case needs a program of
// QEMU that is not there.
func (c Case) Build(t testing.TB, dir string) string {
	t.Helper()
	Require(t, c.needs...)
	m := &maker{t: t, dir: dir, path: filepath.Join(dir, "image.qcow2"), secret: c.Secret}
	c.build(m)
	return m.path
}

// Check runs `qemu-img check` on the image that Build made at path, with its secret.
func (c Case) Check(t testing.TB, path string) CheckResult {
	t.Helper()
	if c.Secret == "" {
		return Check(t, path)
	}
	return Check(t, "", (&maker{path: path, secret: c.Secret}).imageOptions()...)
}

// Matrix returns every case. QEMU calls all of the images sound and, but for the bitmaps that Case.InUse names,
// has nothing to remark about them.
func Matrix() []Case {
	return slices.Concat(
		geometryCases(), refcountCases(), sizeCases(), subclusterCases(), compressionCases(), preallocationCases(),
		snapshotCases(), backingCases(), dataFileCases(), encryptionCases(),
		resizeCases(), amendCases(), bitmapCases(), killedCases(),
	)
}

// maker is what a case's builder works with: its image, and the ways to change it.
type maker struct {
	t      testing.TB
	dir    string
	path   string
	secret string
}

// create makes the image; options are those of `qemu-img create -o`.
func (m *maker) create(size string, options ...string) {
	m.t.Helper()
	args := []string{"create", "-q", "-f", "qcow2"}
	if m.secret != "" {
		args = append(args, "--object", m.secretObject())
	}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	Img(m.t, append(args, m.path, size)...)
}

// overlay makes the image on top of a backing file in the same directory. An empty size is that of the
// backing file.
func (m *maker) overlay(backing, format, size string, options ...string) {
	m.t.Helper()
	args := []string{"create", "-q", "-f", "qcow2", "-b", backing, "-F", format}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	args = append(args, m.path)
	if size != "" {
		args = append(args, size)
	}
	Img(m.t, args...)
}

// other returns a maker for another image of the same directory.
func (m *maker) other(name string) *maker {
	return &maker{t: m.t, dir: m.dir, path: filepath.Join(m.dir, name)}
}

// io runs qemu-io commands on the image.
func (m *maker) io(commands ...string) {
	m.t.Helper()
	if m.secret == "" {
		IO(m.t, m.path, commands...)
		return
	}
	IOArgs(m.t, append([]string{"-d", "unmap"}, m.imageOptions()...), commands...)
}

// img runs qemu-img with the image's path as the last argument.
func (m *maker) img(args ...string) {
	m.t.Helper()
	Img(m.t, append(args, m.path)...)
}

// snapshots takes internal snapshots, changing the guest's data before each but the first.
func (m *maker) snapshots(cluster, size int64, names ...string) {
	m.t.Helper()
	for i, name := range names {
		if i > 0 {
			m.io(change(cluster, size, i)...)
		}
		m.img("snapshot", "-c", name)
	}
	m.io(change(cluster, size, len(names))...)
}

// bitmap adds a bitmap while nobody has the image open.
func (m *maker) bitmap(name string, granularity int64) {
	m.t.Helper()
	AddImageBitmap(m.t, m.path, name, granularity, false)
}

// rawFile makes a raw disk of the given size whose contents compress well in places and not at all in others,
// and returns its path.
func (m *maker) rawFile(name string, size int64) string {
	m.t.Helper()
	data := make([]byte, size)
	noise := uint64(88172645463325252)
	for i := range data {
		switch (i >> 13) % 4 {
		case 0: // zeros
		case 1:
			data[i] = byte(i >> 13)
		case 2:
			data[i] = "qcheck checks "[i%14]
		case 3:
			noise ^= noise << 13
			noise ^= noise >> 7
			noise ^= noise << 17
			data[i] = byte(noise)
		}
	}
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *maker) secretObject() string { return "secret,id=sec0,data=" + m.secret }

// imageOptions are the arguments for an image that takes more than a path to open.
func (m *maker) imageOptions() []string {
	file := strings.ReplaceAll(m.path, ",", ",,")
	return []string{"--object", m.secretObject(), "--image-opts",
		"driver=qcow2,encrypt.key-secret=sec0,discard=unmap,file.driver=file,file.filename=" + file}
}

const (
	kib int64 = 1 << 10
	mib int64 = 1 << 20
)

// fill returns qemu-io commands that give a disk of size bytes data in every state that a guest cluster
// can be in: written whole, in part, across a boundary, out of order, as zeros, trimmed, and at the very end.
func fill(cluster, size int64) []string {
	c := cluster
	return within(size, []op{
		{"write -P 1", 0, 3 * c},
		{"write -P 2", 5*c + c/2, c},
		{"write -P 3", 20 * c, c},
		{"write -P 4", 18 * c, 2 * c},
		{"write -P 5", 10 * c, 6 * c},
		{"write -z", 11 * c, c},
		{"write -z -u", 12 * c, c},
		{"discard", 13 * c, c},
		{"discard", c, c},
		{"write -z", 24 * c, 2 * c},
		{"write -P 6", 70 * c, 512},
		{"write -P 7", size - min(size, c+512), min(size, c+512)},
	})
}

// change returns qemu-io commands that change part of what fill wrote, differently for each round.
func change(cluster, size int64, round int) []string {
	c := cluster
	pattern := fmt.Sprintf("write -P %d", 16+round)
	return within(size, []op{
		{pattern, 2 * c, c},
		{pattern, int64(30+2*round) * c, c},
		{pattern, 18*c + c/2, 512},
		{"write -z -u", int64(14+round%2) * c, c},
		{"discard", int64(6+round%4) * c, c},
	})
}

type op struct {
	command       string
	start, length int64 // in bytes
}

// within writes the operations as commands, cut to what lies inside a disk of size bytes.
func within(size int64, ops []op) []string {
	var commands []string
	for _, o := range ops {
		if n := min(o.length, size-o.start); n > 0 {
			commands = append(commands, fmt.Sprintf("%s %d %d", o.command, o.start, n))
		}
	}
	return commands
}
