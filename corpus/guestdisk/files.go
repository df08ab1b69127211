package guestdisk

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// folders is how many folders the files are spread over; file systems spread folders.
const folders = 8

// writeFiles makes the files that go into the file system; it gives their paths below the
// folder, "" for a folder's end.
func writeFiles(t testing.TB, tree string, s Spec, rng *rand.Rand) (files []string) {
	t.Helper()
	for i := range folders {
		must(t, os.MkdirAll(filepath.Join(tree, fmt.Sprintf("d%d", i)), 0o755))
	}
	var written uint64
	for i := 0; written < s.Data; i++ {
		n := 1 + rng.IntN(1<<(8+rng.IntN(11))) // most are small, some have a few 100 KiB
		if i%64 == 63 {
			n = 4 * mib
		}
		name := fmt.Sprintf("d%d/f%d", i%folders, i)
		must(t, os.WriteFile(filepath.Join(tree, name), content(rng, i, n), 0o644))
		files = append(files, name)
		written += uint64(n)
	}
	if s.Nested {
		files = append(files, "d0/nested.img")
		nested(t, filepath.Join(tree, "d0/nested.img"), s)
	}
	return files
}

// content is text in part of the files, and random bytes in the others.
func content(rng *rand.Rand, i, n int) []byte {
	b := make([]byte, n)
	if i%2 == 0 {
		line := fmt.Appendf(nil, "file %d says %x\n", i, rng.Uint64())
		copy(b, bytes.Repeat(line, n/len(line)+1))
		return b
	}
	for j := 0; j < n; j += 8 {
		v := rng.Uint64()
		for k := j; k < min(j+8, n); k++ {
			b[k] = byte(v)
			v >>= 8
		}
	}
	return b
}

// nested makes the disk of a machine within the machine.
func nested(t testing.TB, path string, s Spec) {
	t.Helper()
	const size = 24 * mib
	inner := filepath.Dir(path) + "-inner"
	must(t, os.MkdirAll(inner, 0o755))
	files := writeFiles(t, inner, Spec{Data: 8 * mib}, rand.New(rand.NewPCG(s.Seed, 3)))
	create(t, path, size)
	part := path + ".part"
	create(t, part, size-2*mib)
	mkfs(t, Ext4, part, inner, files)
	tool(t, fmt.Sprintf("label: gpt\nlabel-id: %s\nstart=2048, size=%d\n", uuid(s.Seed+200), (size-2*mib)/512), "sfdisk", "-q", path)
	CopySparse(t, part, 0, path, mib, size-2*mib)
	must(t, os.Remove(part))
	must(t, os.RemoveAll(inner))
}

// mkfs makes a file system with the files of a tree in it.
func mkfs(t testing.TB, fs FS, part, tree string, files []string) {
	t.Helper()
	switch fs {
	case Ext4:
		tool(t, "", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "metadata_csum", "-d", tree, part)
	case XFS:
		proto := part + ".proto"
		must(t, os.WriteFile(proto, []byte(protofile(tree, files)), 0o644))
		tool(t, "", "mkfs.xfs", "-q", "-f", "-p", proto, part)
		must(t, os.Remove(proto))
	case Btrfs:
		tool(t, "", "mkfs.btrfs", "-q", "-f", "--rootdir", tree, part)
	case NTFS:
		tool(t, "", "mkntfs", "-q", "-F", "-Q", part)
		for _, f := range files {
			tool(t, "", "ntfscp", "-q", "-f", part, filepath.Join(tree, f), strings.ReplaceAll(f, "/", "-"))
		}
	default:
		t.Fatalf("unknown file system %q", fs)
	}
}

// journal writes a transaction to the journal of an ext4 file system, and replays it: the
// copies stay.
func journal(t testing.TB, part string) {
	t.Helper()
	out, err := try(t, "", "debugfs", "-R", "imap <12>", part)
	must(t, err)
	var block int64
	_, where, _ := strings.Cut(out, "located at block ")
	_, err = fmt.Sscanf(where, "%d,", &block)
	must(t, err)
	f, err := os.Open(part)
	must(t, err)
	defer f.Close()
	blocks := []int64{0, 1}
	for i := range int64(8) {
		blocks = append(blocks, block+i)
	}
	var copies []byte
	for _, n := range blocks {
		b := make([]byte, 4096)
		_, err := f.ReadAt(b, n*4096)
		must(t, err)
		copies = append(copies, b...)
	}
	name := part + ".journal"
	must(t, os.WriteFile(name, copies, 0o644))
	defer os.Remove(name)
	commands := fmt.Sprintf("jo\njw -b 0,1,%d-%d %s\njc\njr\n", block, block+7, name)
	must(t, os.WriteFile(name+".commands", []byte(commands), 0o644))
	defer os.Remove(name + ".commands")
	tool(t, "", "debugfs", "-w", "-f", name+".commands", part)
}

// protofile lists files for mkfs.xfs.
func protofile(tree string, files []string) string {
	var b strings.Builder
	b.WriteString("x\n0 0\nd--755 0 0\n")
	for i := range folders {
		dir := fmt.Sprintf("d%d/", i)
		fmt.Fprintf(&b, "d%d d--755 0 0\n", i)
		for _, f := range files {
			if strings.HasPrefix(f, dir) {
				fmt.Fprintf(&b, "%s ---644 0 0 %s\n", strings.TrimPrefix(f, dir), filepath.Join(tree, f))
			}
		}
		b.WriteString("$\n")
	}
	b.WriteString("$\n")
	return b.String()
}

// Fsck runs the file system's own check on a raw disk, without writing to it; it gives
// what that says, "" where all is well.
func (d *Disk) Fsck(t testing.TB, raw string) string {
	t.Helper()
	part := raw
	if d.Partition > 0 {
		part = raw + ".part"
		create(t, part, d.Length)
		CopySparse(t, raw, d.Partition, part, 0, d.Length)
		defer os.Remove(part)
	}
	var out string
	var err error
	switch d.FS {
	case Ext4:
		out, err = try(t, "", "e2fsck", "-fn", part)
	case XFS:
		out, err = try(t, "", "xfs_repair", "-n", "-f", part)
	case Btrfs:
		out, err = try(t, "", "btrfs", "check", "--check-data-csum", part)
	case NTFS:
		out, err = try(t, "", "ntfsfix", "-n", part)
	}
	if err != nil {
		return fmt.Sprintf("%v\n%s", err, out)
	}
	return ""
}
