package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/guestdisk"
	"github.com/qcheck/qcheck/corpus/qemutest"
)

var (
	rescueAll  = flag.Bool("rescue.all", false, "rescue disks with every file system, in every shape, after every damage")
	rescueDocs = flag.Bool("rescue.docs", false, "write what was measured to docs/rescue-measured.md")
)

// rescued is what came of one rescue.
type rescued struct {
	guestdisk.Score
	code   int
	fsck   string // what is wrong by the file system's own check; "" where all is well
	asked  bool   // the file system was checked
	stderr string
	took   time.Duration
}

// rescueDisk rescues a damaged image, and has QEMU and the file system's own check judge
// what came of it.
func rescueDisk(t *testing.T, d *guestdisk.Disk, damage guestdisk.Damage) (r rescued) {
	t.Helper()
	dir := t.TempDir()
	broken, out, raw := filepath.Join(dir, "broken.qcow2"), filepath.Join(dir, "out.qcow2"), filepath.Join(dir, "out.raw")
	gone := damage.Do(t, d, broken)
	before := digestOf(t, broken)
	var stdout, stderr bytes.Buffer
	start := time.Now()
	r.code = run([]string{"rescue", broken, "-o", out}, nil, &stdout, &stderr)
	r.took, r.stderr = time.Since(start), stderr.String()
	require.Equal(t, before, digestOf(t, broken), "the image has changed")
	if r.code != 0 && r.code != 2 {
		s := d.Compare(t, d.Raw, gone)
		r.Missed, r.Orphaned = s.Right, s.Orphaned
		return r
	}
	if res := qemutest.Check(t, out); res.RC != 0 {
		t.Errorf("qemu-img check says %d of the result\n%s", res.RC, res.Stderr)
	}
	qemutest.Img(t, "convert", "-f", "qcow2", "-O", "raw", out, raw)
	require.NoError(t, os.Truncate(raw, max(int64(d.Size), fileLength(t, raw))))
	r.Score = d.Compare(t, raw, gone)
	if r.code == 0 || r.Missed+r.Wrong+r.Orphaned-r.Found == 0 {
		r.asked, r.fsck = true, d.Fsck(t, raw)
	}
	return r
}

// digestOf tells whether a file has changed.
func digestOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	require.NoError(t, err)
	return hex.EncodeToString(h.Sum(nil))
}

func fileLength(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Size()
}

func (r rescued) row() string {
	fsck := "–"
	if r.asked {
		fsck = "clean"
		if r.fsck != "" {
			fsck = "errors"
		}
	}
	found := "–"
	if r.Orphaned > 0 {
		found = fmt.Sprintf("%.2f %%", r.FoundShare())
	}
	return fmt.Sprintf("%d | %.2f %% | %s | %d | %s | %.1f s", r.code, r.Share(), found, r.Wrong, fsck, r.took.Seconds())
}

// TestRescueDisks rescues one disk of each file system.
func TestRescueDisks(t *testing.T) {
	if raceDetector {
		t.Skip("most of it is other programs")
	}
	for _, fs := range guestdisk.All {
		t.Run(string(fs), func(t *testing.T) {
			d := guestdisk.Build(t, t.TempDir(), guestdisk.Spec{FS: fs, Data: 12 << 20})
			for _, damage := range []guestdisk.Damage{guestdisk.Damages[2], guestdisk.HeaderAndL1, guestdisk.L2Tables} {
				r := rescueDisk(t, d, damage)
				t.Logf("%s: %s", damage.Name, r.row())
				assert.Zero(t, r.Wrong, damage.Name)
				assert.Empty(t, r.fsck, damage.Name)
				switch damage.Name {
				case guestdisk.HeaderAndL1.Name:
					assert.GreaterOrEqual(t, r.Share(), 95.0)
				case guestdisk.L2Tables.Name:
					if r.Found < r.Orphaned {
						assert.Equal(t, 2, r.code, "a table is gone, and with it what it led to")
					}
					assert.Zero(t, r.Missed, "what other tables map is there")
				default:
					assert.Zero(t, r.Missed, "%s: %s", damage.Name, r.stderr)
				}
			}
		})
	}
}

// Compressed data that a table led to shares its clusters with data that others lead to, so
// that no orphan shows the loss.
func TestRescueCompressedDisk(t *testing.T) {
	if raceDetector {
		t.Skip("most of it is other programs")
	}
	dir := t.TempDir()
	base := guestdisk.BuildRaw(t, dir, guestdisk.Spec{FS: guestdisk.All[0], Data: 24 << 20})
	d := base.Image(t, filepath.Join(dir, "disk.qcow2"), guestdisk.Shape{Compress: true})
	r := rescueDisk(t, d, guestdisk.L2Tables)
	assert.Equal(t, 2, r.code, "a table is gone, and with it what it led to: %s", r.row())
	assert.Zero(t, r.Wrong)
}

// rescueShapes are the kinds of images that the long measurement takes.
var rescueShapes = []struct {
	name string
	guestdisk.Shape
}{
	{"64 KiB clusters", guestdisk.Shape{}},
	{"version 2", guestdisk.Shape{Options: "compat=0.10"}},
	{"4 KiB clusters", guestdisk.Shape{Options: "cluster_size=4k"}},
	{"2 MiB clusters", guestdisk.Shape{Options: "cluster_size=2M"}},
	{"extended L2", guestdisk.Shape{Options: "cluster_size=64k,extended_l2=on"}},
	{"zlib", guestdisk.Shape{Compress: true}},
	{"zstd", guestdisk.Shape{Options: "compression_type=zstd", Compress: true}},
	{"two snapshots", guestdisk.Shape{Snapshots: 2}},
}

// TestRescueBench measures, and prints a table: make rescue-bench.
func TestRescueBench(t *testing.T) {
	if !*rescueAll {
		t.Skip("takes some minutes: make rescue-bench")
	}
	var table strings.Builder
	table.WriteString("| file system | image | damage | exit | right | found | wrong bytes | file system's own check | time |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, fs := range guestdisk.All {
		t.Run(string(fs), func(t *testing.T) {
			dir := t.TempDir()
			base := guestdisk.BuildRaw(t, dir, guestdisk.Spec{FS: fs, Data: 24 << 20})
			for _, shape := range rescueShapes {
				d := base.Image(t, filepath.Join(dir, "disk.qcow2"), shape.Shape)
				for _, damage := range guestdisk.Damages {
					r := rescueDisk(t, d, damage)
					row := fmt.Sprintf("| %s | %s | %s | %s |", fs, shape.name, damage.Name, r.row())
					fmt.Println(row)
					table.WriteString(row + "\n")
					assert.Zero(t, r.Wrong, row)
					assert.Empty(t, r.fsck, row)
				}
				require.NoError(t, os.Remove(d.Path))
			}
		})
	}
	if *rescueDocs {
		writeMeasured(t, table.String())
	}
}

// writeMeasured puts a table into the page.
func writeMeasured(t *testing.T, table string) {
	t.Helper()
	const page, mark = "../../docs/rescue-measured.md", "<!-- measured -->\n"
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	head, _, ok := strings.Cut(string(b), mark)
	require.True(t, ok)
	require.NoError(t, os.WriteFile(page, []byte(head+mark+table), 0o644))
}
