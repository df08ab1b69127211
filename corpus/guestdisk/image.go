package guestdisk

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/qcheck/qcheck/corpus/qemutest"
)

// writeImage brings the raw disk into a qcow2 file. QEMU allocates in the order of
// writing, so what is shuffled is written first, and what is left is filled in after it.
func writeImage(t testing.TB, d *Disk, rng *rand.Rand) {
	t.Helper()
	args := []string{"create", "-q", "-f", "qcow2"}
	if d.Options != "" {
		args = append(args, "-o", d.Options)
	}
	qemutest.Img(t, append(args, d.Path, fmt.Sprint(d.Size))...)
	cluster := clusterSize(d.Options)
	window := cluster * cluster / 8
	if strings.Contains(d.Options, "extended_l2=on") {
		window /= 2
	}
	windows := d.windows(t, window)
	rng.Shuffle(len(windows), func(i, j int) { windows[i], windows[j] = windows[j], windows[i] })
	var commands []string
	for i, w := range windows {
		if i == 1 && !d.Compress {
			// Else all L2 tables would lie at the start of the file.
			for k := range uint64(64) {
				at := d.dataIn(t, windows[0]*window+k*cluster) / cluster * cluster
				if at/window == windows[0] {
					commands = append(commands, fmt.Sprintf("write -q -P 90 %d %d", at, min(cluster, d.Size-at)))
				}
			}
		}
		if d.Compress {
			// What is compressed can only be written where nothing was.
			if at, ok := d.hole(t, w*window, window, cluster); ok {
				commands = append(commands, fmt.Sprintf("write -q -z %d %d", at, cluster))
			}
			continue
		}
		commands = append(commands, fmt.Sprintf("write -q -P 90 %d %d", d.dataIn(t, w*window)/cluster*cluster, cluster))
	}
	for range 64 {
		if at := rng.Uint64N(d.Size / cluster); !d.Compress {
			if data := d.dataIn(t, at*cluster); data < d.Size {
				commands = append(commands, fmt.Sprintf("write -q -P 90 %d %d", data/cluster*cluster, min(cluster, d.Size-data/cluster*cluster)))
			}
		}
	}
	run(t, d.Path, commands)
	fill := []string{"convert", "-n", "-f", "raw", "-O", "qcow2"}
	if d.Compress {
		fill = append(fill, "-c")
	}
	qemutest.Img(t, append(fill, d.Raw, d.Path)...)
	for i := range d.Snapshots {
		qemutest.Img(t, "snapshot", "-c", fmt.Sprintf("s%d", i+1), d.Path)
		d.rewrite(t, rng, cluster)
	}
	if same := qemutest.Run(t, qemutest.QemuImg, "compare", "-f", "raw", "-F", "qcow2", d.Raw, d.Path); same.RC != 0 {
		t.Fatalf("the image does not hold the disk\n%v", same)
	}
}

// run has qemu-io run commands, some hundred at a time.
func run(t testing.TB, path string, commands []string) {
	t.Helper()
	for len(commands) > 0 {
		n := min(len(commands), 400)
		qemutest.IOArgs(t, []string{"-f", "qcow2", path}, commands[:n]...)
		commands = commands[n:]
	}
}

// rewrite writes some clusters again, as they are: they get a new place in the file.
func (d *Disk) rewrite(t testing.TB, rng *rand.Rand, cluster uint64) {
	t.Helper()
	raw, err := os.Open(d.Raw)
	must(t, err)
	defer raw.Close()
	var commands []string
	for i := range 24 {
		at := d.dataIn(t, rng.Uint64N(d.Size))
		if at >= d.Size {
			continue
		}
		at = at / cluster * cluster
		b := make([]byte, min(cluster, d.Size-at))
		_, err := raw.ReadAt(b, int64(at))
		must(t, err)
		name := filepath.Join(filepath.Dir(d.Path), fmt.Sprintf("cluster-%d", i))
		must(t, os.WriteFile(name, b, 0o644))
		defer os.Remove(name)
		commands = append(commands, fmt.Sprintf("write -q -s %s %d %d", name, at, len(b)))
	}
	run(t, d.Path, commands)
}

// windows gives the numbers of the windows of the disk that hold data.
func (d *Disk) windows(t testing.TB, window uint64) (list []uint64) {
	t.Helper()
	for at := uint64(0); at < d.Size; {
		at = d.dataIn(t, at)
		if at >= d.Size {
			break
		}
		list = append(list, at/window)
		at = (at/window + 1) * window
	}
	return list
}

const (
	seekData = 3
	seekHole = 4
)

// dataIn gives where the first data lies from an offset on, or the end of the disk.
func (d *Disk) dataIn(t testing.TB, at uint64) uint64 {
	t.Helper()
	f, err := os.Open(d.Raw)
	must(t, err)
	defer f.Close()
	n, err := f.Seek(int64(at), seekData)
	if errors.Is(err, syscall.ENXIO) {
		return d.Size
	}
	must(t, err)
	return uint64(n)
}

// hole gives a cluster without data within a window.
func (d *Disk) hole(t testing.TB, at, window, cluster uint64) (uint64, bool) {
	t.Helper()
	f, err := os.Open(d.Raw)
	must(t, err)
	defer f.Close()
	n, err := f.Seek(int64(at), seekHole)
	must(t, err)
	from := (uint64(n) + cluster - 1) / cluster * cluster
	if from+cluster > min(at+window, d.Size) || d.dataIn(t, from) < from+cluster {
		return 0, false
	}
	return from, true
}

// clusterSize reads the cluster size in options of qemu-img create.
func clusterSize(options string) uint64 {
	size := uint64(64 << 10)
	for o := range strings.SplitSeq(options, ",") {
		if v, ok := strings.CutPrefix(o, "cluster_size="); ok {
			var unit string
			fmt.Sscanf(v, "%d%s", &size, &unit)
			switch unit {
			case "k":
				size <<= 10
			case "M":
				size <<= 20
			}
		}
	}
	return size
}

// CopySparse copies a range of a file to another, leaving out what is a hole.
func CopySparse(t testing.TB, from string, at uint64, to string, toAt, length uint64) {
	t.Helper()
	src, err := os.Open(from)
	must(t, err)
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY, 0)
	must(t, err)
	defer func() { must(t, dst.Close()) }()
	end := int64(at + length)
	for pos := int64(at); pos < end; {
		pos, err = src.Seek(pos, seekData)
		if errors.Is(err, syscall.ENXIO) || err == nil && pos >= end {
			return
		}
		must(t, err)
		hole, err := src.Seek(pos, seekHole)
		must(t, err)
		hole = min(hole, end)
		_, err = dst.Seek(pos-int64(at)+int64(toAt), io.SeekStart)
		must(t, err)
		_, err = io.Copy(dst, io.NewSectionReader(src, pos, hole-pos))
		must(t, err)
		pos = hole
	}
}
