// Package guestdisk makes images as real machines have them: QEMU's own qcow2 files that
// hold a disk with a partition table and a real file system with files in it, made by the
// file system's own tools. What must be read from them is known byte by byte.
//
// The order of the L2 tables and of part of the clusters in the file is shuffled, so that
// it tells nothing of their order on the disk.
package guestdisk

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/qcheck/qcheck/corpus/qemutest"
)

// FS is a file system.
type FS string

// The file systems.
const (
	Ext4  FS = "ext4"
	XFS   FS = "xfs"
	Btrfs FS = "btrfs"
	NTFS  FS = "ntfs"
)

// All are the file systems that can be made.
var All = []FS{Ext4, XFS, Btrfs, NTFS}

// Label is how the disk is cut.
type Label string

// The labels.
const (
	GPT  Label = "gpt"
	MBR  Label = "mbr"
	None Label = "none" // the file system fills the disk
)

// Spec says what a disk is like. The zero value is an ext4 file system on a disk of 2 GiB
// with a GPT.
type Spec struct {
	FS    FS
	Label Label
	Size  uint64 // of the disk in bytes, a multiple of 1 MiB. The default is 2 GiB.
	Data  uint64 // bytes of all files together, about. The default is 48 MiB.
	Seed  uint64
	// Nested puts an image with a GPT and an ext4 file system of its own into a file.
	Nested bool
	// Journaled leaves copies of the superblock, the group descriptors and of inodes in the
	// journal, as a mounted ext4 does.
	Journaled bool

	Shape
}

// Shape is how an image keeps its disk.
type Shape struct {
	Options   string // of qemu-img create, as "cluster_size=16k,extended_l2=on"
	Compress  bool
	Snapshots int // taken while parts of the disk are written again
}

// Disk is what was made.
type Disk struct {
	Spec
	Path      string // the qcow2 file
	Raw       string // the same disk as a sparse raw file
	Partition uint64 // where the file system starts on the disk, in bytes
	Length    uint64 // of the file system, in bytes
}

const mib = 1 << 20

// Build makes a disk in a folder, as a raw and as a qcow2 file; the test is skipped where
// the tools are not there, and fails with CI=true.
func Build(t testing.TB, dir string, s Spec) *Disk {
	t.Helper()
	qemutest.Require(t)
	d := BuildRaw(t, dir, s)
	writeImage(t, d, rand.New(rand.NewPCG(s.Seed, 4)))
	return d
}

// Image makes another image of the same disk.
func (d *Disk) Image(t testing.TB, path string, s Shape) *Disk {
	t.Helper()
	other := *d
	other.Shape, other.Path = s, path
	writeImage(t, &other, rand.New(rand.NewPCG(d.Seed, 4)))
	return &other
}

// BuildRaw makes the raw file alone.
func BuildRaw(t testing.TB, dir string, s Spec) *Disk {
	t.Helper()
	if s.FS == "" {
		s.FS = Ext4
	}
	if s.Label == "" {
		s.Label = GPT
	}
	if s.Size == 0 {
		s.Size = 2 << 30
	}
	if s.Data == 0 {
		s.Data = 48 * mib
	}
	d := &Disk{Spec: s, Path: filepath.Join(dir, "disk.qcow2"), Raw: filepath.Join(dir, "disk.raw"), Length: s.Size}
	if s.Label != None {
		d.Partition, d.Length = mib, s.Size-2*mib
	}
	rng := rand.New(rand.NewPCG(s.Seed, 1))
	tree := filepath.Join(dir, "tree")
	files := writeFiles(t, tree, s, rng)
	part := filepath.Join(dir, "part.raw")
	create(t, part, d.Length)
	mkfs(t, s.FS, part, tree, files)
	if s.Journaled {
		journal(t, part)
	}
	create(t, d.Raw, s.Size)
	if s.Label != None {
		partition(t, d)
	}
	CopySparse(t, part, 0, d.Raw, d.Partition, d.Length)
	must(t, os.Remove(part))
	must(t, os.RemoveAll(tree))
	return d
}

// Require ends the test unless a tool is there: it is skipped, or fails where the
// environment says CI=true.
func Require(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, ok := find(tool); ok {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing and CI=true: run .ci/install-deps.sh", tool)
		}
		t.Skipf("SKIPPED, NOT TESTED with real file systems: %s is missing (run .ci/install-deps.sh)", tool)
	}
}

// find looks for a tool where administrators' tools are, too.
func find(tool string) (string, bool) {
	if p, err := exec.LookPath(tool); err == nil {
		return p, true
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, tool)); err == nil {
			return p, true
		}
	}
	return "", false
}

// tool runs a tool, which must succeed; input is what it reads.
func tool(t testing.TB, input, name string, args ...string) {
	t.Helper()
	if out, err := try(t, input, name, args...); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func try(t testing.TB, input, name string, args ...string) (string, error) {
	t.Helper()
	Require(t, name)
	path, _ := find(name)
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(input)
	// The same UUIDs and times each time, where tools can do that.
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000", "E2FSPROGS_FAKE_TIME=1700000000", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, path string, size uint64) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	must(t, f.Truncate(int64(size)))
	must(t, f.Close())
}

// uuid is one that a seed gives.
func uuid(seed uint64) string {
	rng := rand.New(rand.NewPCG(seed, 2))
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rng.Uint32(), rng.Uint32()&0xffff, rng.Uint32()&0xfff, rng.Uint32()&0xfff, rng.Uint64()&0xffffffffffff)
}

func partition(t testing.TB, d *Disk) {
	t.Helper()
	script := fmt.Sprintf("label: gpt\nlabel-id: %s\nstart=2048, size=%d\n", uuid(d.Seed+100), d.Length/512)
	if d.Label == MBR {
		script = fmt.Sprintf("label: dos\nstart=2048, size=%d, type=83\n", d.Length/512)
	}
	tool(t, script, "sfdisk", "-q", d.Raw)
}
