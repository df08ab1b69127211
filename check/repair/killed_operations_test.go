package repair

import (
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/qcheck/qcheck/corpus/qemutest"
)

// killedOperation is something that a QEMU does to an image, and that is killed in the
// middle.
type killedOperation struct {
	name   string
	create []string // options of qemu-img create
	before func(t *testing.T, path string)
	// Either a program of its own, with its arguments,
	run func(path string) []string
	// or what a daemon does that has the image open: job makes all ready, and gives the
	// commands. When they are done and the job that they begin, if any, the daemon quits.
	job func(d *qemutest.Daemon, path string) []qmpCommand
	// others are further images that it writes to, by what follows the name of the first.
	others []string
	// shrinks is the size in bytes to which the disk is shrunk, 0 for none. What lies past it
	// can be gone from the file before anything in the image says so.
	shrinks uint64
}

type qmpCommand struct {
	execute   string
	arguments map[string]any
}

const (
	killedSize   = "256M"
	killedJob    = "job"    // the ID of a job
	killedTarget = "target" // the node that a job writes to
)

func killedOperations() []killedOperation {
	fill := func(t *testing.T, path string) {
		qemutest.IO(t, path, "write -P 1 0 8M", "write -P 2 100M 4M", "write -z 20M 4M")
	}
	snapshot := func(t *testing.T, path string) {
		fill(t, path)
		qemutest.Img(t, "snapshot", "-c", "one", path)
		qemutest.IO(t, path, "write -P 3 1M 4M", "write -P 4 200M 2M")
	}
	// With clusters this small an operation takes many tables and blocks, one write each.
	small := []string{"-o", "cluster_size=512,refcount_bits=16"}
	smallFill := func(t *testing.T, path string) {
		qemutest.IO(t, path, "write -P 1 0 200K", "write -P 2 100M 100K", "write -P 3 200M 50K")
	}
	smallSnapshot := func(t *testing.T, path string) {
		qemutest.IO(t, path, "write -P 1 0 200K", "write -P 2 100M 100K")
		qemutest.Img(t, "snapshot", "-c", "one", path)
		qemutest.IO(t, path, "write -P 3 50K 60K", "write -P 4 200M 50K")
	}
	bitmaps := func(t *testing.T, path string) {
		fill(t, path)
		for _, name := range []string{"a", "b"} {
			qemutest.Img(t, "bitmap", "--add", path, name)
		}
		qemutest.IO(t, path, "write -P 5 30M 3M")
	}
	overlay := func(t *testing.T, path string) {
		base := path + ".base"
		qemutest.Img(t, "create", "-q", "-f", "qcow2", base, killedSize)
		fill(t, base)
		qemutest.Img(t, "create", "-q", "-f", "qcow2", "-b", filepath.Base(base), "-F", "qcow2", path)
		qemutest.IO(t, path, "write -P 6 2M 6M", "write -P 7 150M 2M")
	}
	target := func(t *testing.T, path string) {
		qemutest.Img(t, "create", "-q", "-f", "qcow2", path+".target", killedSize)
	}
	both := func(first, second func(*testing.T, string)) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			first(t, path)
			second(t, path)
		}
	}
	img := func(args ...string) func(string) []string {
		return func(path string) []string {
			out := []string{qemutest.QemuImg}
			for _, a := range args {
				out = append(out, strings.ReplaceAll(a, "IMAGE", path))
			}
			return out
		}
	}
	write := func(commands ...string) func(string) []string {
		return func(path string) []string {
			out := []string{qemutest.QemuIO}
			for _, c := range commands {
				out = append(out, "-c", c)
			}
			return append(out, path)
		}
	}
	job := func(command string, arguments map[string]any) func(*qemutest.Daemon, string) []qmpCommand {
		return func(d *qemutest.Daemon, path string) []qmpCommand {
			if arguments["target"] != nil {
				d.Open(killedTarget, path+".target", nil)
			}
			args := map[string]any{"job-id": killedJob, "device": qemutest.Disk, "auto-dismiss": false}
			maps.Copy(args, arguments)
			return []qmpCommand{{command, args}}
		}
	}
	// recorded has persistent bitmaps that a daemon stores when it closes the image.
	recorded := func(d *qemutest.Daemon) {
		for _, name := range []string{"x", "y"} {
			d.AddBitmap(qemutest.Bitmap{Name: name})
		}
		d.IO("write -P 11 40M 2M", "write -P 12 180M 1M")
	}
	return []killedOperation{
		{name: "snapshot-create", before: fill, run: img("snapshot", "-c", "two", "IMAGE")},
		{name: "snapshot-create-narrow", create: []string{"-o", "refcount_bits=2"}, before: fill, run: img("snapshot", "-c", "two", "IMAGE")},
		{name: "snapshot-delete", before: snapshot, run: img("snapshot", "-d", "one", "IMAGE")},
		{name: "snapshot-apply", before: snapshot, run: img("snapshot", "-a", "one", "IMAGE")},
		{name: "snapshot-create-small", create: small, before: smallSnapshot, run: img("snapshot", "-c", "two", "IMAGE")},
		{name: "snapshot-delete-small", create: small, before: smallSnapshot, run: img("snapshot", "-d", "one", "IMAGE")},
		{name: "snapshot-apply-small", create: small, before: smallSnapshot, run: img("snapshot", "-a", "one", "IMAGE")},
		{name: "shrink-small", create: []string{"-o", "cluster_size=4K"}, before: smallFill, run: img("resize", "-q", "--shrink", "IMAGE", "64M"), shrinks: 64 << 20},
		{name: "resize", before: fill, run: img("resize", "-q", "IMAGE", "20G")},
		{name: "shrink", before: fill, run: img("resize", "-q", "--shrink", "IMAGE", "64M"), shrinks: 64 << 20},
		{name: "amend", before: fill, run: img("amend", "-o", "compat=0.10", "IMAGE")},
		{name: "amend-refcounts", before: fill, run: img("amend", "-o", "refcount_bits=64", "IMAGE")},
		{name: "bitmap-add", before: bitmaps, run: img("bitmap", "--add", "IMAGE", "c")},
		{name: "bitmap-remove", before: bitmaps, run: img("bitmap", "--remove", "IMAGE", "a")},
		{name: "bitmap-merge", before: bitmaps, run: img("bitmap", "--merge", "a", "IMAGE", "b")},
		{name: "commit", before: overlay, run: img("commit", "-q", "IMAGE"), others: []string{".base"}},
		{name: "rebase", before: overlay, run: img("rebase", "-q", "-b", "", "IMAGE")},
		{name: "write", before: fill, run: write("write -P 8 40M 20M", "discard 0 4M", "write -P 9 0 2M", "flush")},
		{name: "write-lazy", create: []string{"-o", "lazy_refcounts=on"}, before: fill, run: write("write -P 8 40M 20M", "discard 0 4M", "write -P 9 0 2M", "flush")},
		{name: "write-old", create: []string{"-o", "compat=0.10,cluster_size=2M"}, before: fill, run: write("write -P 8 40M 20M", "write -P 9 0 2M", "flush")},
		{name: "write-small", create: []string{"-o", "cluster_size=512"}, run: write("write -P 8 0 2M", "write -P 9 100M 1M", "flush")},
		{name: "write-snapshot", before: snapshot, run: write("write -P 8 0 8M", "write -P 9 200M 4M", "flush")},
		{name: "write-subclusters", create: []string{"-o", "extended_l2=on"}, before: fill, run: write("write -P 8 40M 1M", "discard 0 4M", "write -P 9 5000 3000", "write -z 3M 40K", "flush")},
		{name: "write-compressed", before: fill, run: write("write -c -P 8 40M 2M", "write -P 9 40M 64K", "flush")},
		{name: "snapshot-delete-first", before: func(t *testing.T, path string) {
			snapshot(t, path)
			qemutest.Img(t, "snapshot", "-c", "three", path)
			qemutest.IO(t, path, "write -P 5 0 2M")
		}, run: img("snapshot", "-d", "one", "IMAGE")},
		{name: "stream", before: overlay, job: job("block-stream", nil)},
		{name: "commit-live", before: overlay, others: []string{".base"}, job: job("block-commit", nil)},
		{name: "mirror", before: both(fill, target), others: []string{".target"},
			job: job("blockdev-mirror", map[string]any{"target": killedTarget, "sync": "full"})},
		{name: "backup", before: both(bitmaps, target), others: []string{".target"},
			job: job("blockdev-backup", map[string]any{"target": killedTarget, "sync": "incremental", "bitmap": "a"})},
		{name: "backup-full", before: both(snapshot, target), others: []string{".target"},
			job: job("blockdev-backup", map[string]any{"target": killedTarget, "sync": "full", "compress": true})},
		{name: "bitmaps-stored", before: fill, job: func(d *qemutest.Daemon, _ string) []qmpCommand {
			recorded(d)
			return nil
		}},
		{name: "bitmaps-changed", before: bitmaps, job: func(d *qemutest.Daemon, _ string) []qmpCommand {
			recorded(d)
			named := func(name string) map[string]any { return map[string]any{"node": qemutest.Disk, "name": name} }
			return []qmpCommand{
				{"block-dirty-bitmap-merge", map[string]any{"node": qemutest.Disk, "target": "x", "bitmaps": []string{"a"}}},
				{"block-dirty-bitmap-remove", named("b")},
				{"block-dirty-bitmap-clear", named("a")},
				{"block-dirty-bitmap-remove", named("y")},
			}
		}},
	}
}
