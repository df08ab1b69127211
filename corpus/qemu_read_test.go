package corpus_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
	"github.com/qcheck/qcheck/qcow2"
)

const qemuReadHead = `# What QEMU 10.0 reads of the disks of the corpus's images that are not sound, one a line:
# the disk's size, OFFSET+LENGTH=SHA256 of parts of it, OFFSET+LENGTH! where reading fails.
# Each part is read by a process of its own. Made by:
# go test ./corpus -run TestQEMUReads -update
`

// mostParts bounds the parts of a disk that are told.
const mostParts = 24

// readRecorded tells whether it is recorded what QEMU reads of a case.
func readRecorded(c *corpus.Case) bool {
	return judged(c) && !c.Healthy() && c.QEMU.ReadOnly == check.OpenOK
}

// TestQEMUReads asks a real QEMU what it reads of images that are not sound, and
// compares that with what is recorded.
func TestQEMUReads(t *testing.T) {
	if testing.Short() {
		t.Skip("asks QEMU about many images")
	}
	qemutest.Require(t)
	text := new(strings.Builder)
	text.WriteString(qemuReadHead)
	n := 0
	t.Run("all", func(t *testing.T) {
		for _, c := range corpus.Cases() {
			if !readRecorded(&c) {
				continue
			}
			if n++; !*update && n%13 != 0 {
				continue
			}
			if *update {
				fmt.Fprintf(text, "%s %s\n", c.Name, readByQEMU(t, &c).Text())
				continue
			}
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				got := readByQEMU(t, &c)
				img, err := c.Build()
				require.NoError(t, err)
				want, ok := c.QEMURead(img)
				require.True(t, ok, "not recorded: run go test ./corpus -run TestQEMUReads -update with QEMU 10")
				if major, _ := qemutest.Version(t); major < 10 && got.Text() != want.Text() {
					t.Skipf("this older QEMU reads %q", got.Text())
				}
				assert.Equal(t, want.Text(), got.Text())
			})
		}
	})
	if *update {
		require.NoError(t, os.WriteFile("qemu_read.txt", []byte(text.String()), 0o666))
	}
}

// TestReadsLikeQEMU compares what this project's reader gets of all images with what is
// recorded of QEMU.
func TestReadsLikeQEMU(t *testing.T) {
	t.Parallel()
	compared, unreadable := 0, 0
	for _, c := range corpus.Cases() {
		if !readRecorded(&c) || c.Spec.Crypt != 0 || strings.Contains(c.Name, "/backing-in-header") || c.Name == "header/backing-name-in-header" {
			// QEMU takes a name that starts with NUL for none, and reads without a backing
			// file; this project's reader says that there is no such file.
			continue
		}
		img, err := c.Build()
		require.NoError(t, err)
		want, ok := c.QEMURead(img)
		if !assert.True(t, ok, "%s is not recorded", c.Name) {
			continue
		}
		disk, err := openDisk(img)
		if errors.Is(err, errUndecrypted) {
			continue
		}
		require.NoError(t, err, c.Name)
		if want.SHA256 != "" && want.Size > 0 {
			want.Samples = []corpus.Sample{{ByteRange: corpus.ByteRange{Length: want.Size}, SHA256: want.SHA256}}
		}
		for _, s := range want.Samples {
			h := sha256.New()
			_, err := io.Copy(h, io.NewSectionReader(disk, int64(s.Offset), int64(s.Length)))
			if assert.NoError(t, err, c.Name) {
				assert.Equal(t, s.SHA256, fmt.Sprintf("%x", h.Sum(nil)), "%s at %#x", c.Name, s.Offset)
			}
			compared++
		}
		for _, x := range want.Unreadable {
			_, err := disk.ReadAt(make([]byte, min(x.Length, 512)), int64(x.Offset))
			assert.Error(t, err, "%s at %#x", c.Name, x.Offset)
			unreadable++
		}
	}
	assert.Greater(t, compared, 500)
	assert.Greater(t, unreadable, 30)
}

var errUndecrypted = errors.New("the disk is encrypted")

// openDisk opens the active disk with the files that belong to it.
func openDisk(img *corpus.Image) (*qcow2.Disk, error) {
	q, err := img.Open()
	if err != nil {
		return nil, err
	}
	if q.Header.CryptMethod != qcow2.CryptNone {
		return nil, errUndecrypted
	}
	files := qcow2.Files{Open: func(_, name string) (qcow2.Source, string, error) {
		if s := img.Siblings[name]; s != nil {
			return s, name, nil
		}
		return nil, "", fs.ErrNotExist
	}}
	return q.ActiveDisk(files.DiskOptions("image"))
}

// readByQEMU reads parts of the disk with QEMU.
func readByQEMU(t *testing.T, c *corpus.Case) corpus.DiskRead {
	img, err := c.Build()
	require.NoError(t, err)
	path := writeImage(t, c, img)
	defer os.RemoveAll(filepath.Dir(path))
	q := qemuReader{t: t, access: accessArgs(c, path), out: filepath.Join(filepath.Dir(path), "part.raw"), unit: uint64(c.Entry().Made.ClusterSize)}
	d := corpus.DiskRead{Size: q.size()}
	disk, err := openDisk(img)
	if err != nil {
		disk = nil
	}
	for _, x := range img.SampleRanges(d.Size) {
		for _, part := range q.predict(disk, x) {
			if len(d.Samples)+len(d.Unreadable) >= mostParts {
				return d
			}
			q.read(&d, part)
		}
	}
	return d
}

// qemuReader reads parts of a disk, each by a process of its own: after some errors
// QEMU reads nothing more.
type qemuReader struct {
	t      *testing.T
	access []string
	out    string
	unit   uint64 // bytes in which readable and unreadable parts are told apart
}

func (q *qemuReader) size() uint64 {
	run := qemutest.Run(q.t, qemutest.QemuImg, append([]string{"info", "--output=json"}, q.access...)...)
	require.Zero(q.t, run.RC, run.Stderr)
	var info struct {
		Size uint64 `json:"virtual-size"`
	}
	require.NoError(q.t, json.Unmarshal([]byte(run.Stdout), &info))
	return info.Size
}

// part is a part of the disk of which it is expected whether it can be read.
type part struct {
	corpus.ByteRange
	bad bool
}

// predict cuts a range where this project's reader begins or ends to fail, so that QEMU
// need not be asked about each cluster.
func (q *qemuReader) predict(disk *qcow2.Disk, x corpus.ByteRange) []part {
	if disk == nil {
		return []part{{x, false}}
	}
	var parts []part
	buf := make([]byte, q.unit)
	for at := x.Offset; at < x.Offset+x.Length; {
		n := min(q.unit-at%q.unit, x.Offset+x.Length-at)
		_, err := disk.ReadAt(buf[:n], int64(at))
		if last := len(parts) - 1; last >= 0 && parts[last].bad == (err != nil) {
			parts[last].Length += n
		} else {
			parts = append(parts, part{corpus.ByteRange{Offset: at, Length: n}, err != nil})
		}
		at += n
	}
	return parts
}

// read adds what QEMU reads of a part to d. What is expected to fail is tried at both
// ends; where QEMU does otherwise it is asked about smaller parts.
func (q *qemuReader) read(d *corpus.DiskRead, p part) {
	if len(d.Samples)+len(d.Unreadable) >= mostParts {
		return
	}
	if p.bad {
		first, last := p.ByteRange, p.ByteRange
		first.Length = min(p.Length, q.unit)
		last.Offset += p.Length - first.Length
		last.Length = first.Length
		_, ok1 := q.sum(first)
		_, ok2 := q.sum(last)
		if !ok1 && !ok2 {
			d.Unreadable = append(d.Unreadable, p.ByteRange)
			return
		}
	} else if sum, ok := q.sum(p.ByteRange); ok {
		d.Samples = append(d.Samples, corpus.Sample{ByteRange: p.ByteRange, SHA256: sum})
		return
	} else if p.Length <= q.unit {
		d.Unreadable = append(d.Unreadable, p.ByteRange)
		return
	}
	if p.Length <= q.unit {
		sum, ok := q.sum(p.ByteRange)
		require.True(q.t, ok)
		d.Samples = append(d.Samples, corpus.Sample{ByteRange: p.ByteRange, SHA256: sum})
		return
	}
	q.t.Logf("%s: QEMU does not do what was expected at %#x, %d bytes (unreadable: %t)", q.t.Name(), p.Offset, p.Length, p.bad)
	half := max(q.unit, p.Length/2/q.unit*q.unit)
	q.read(d, part{corpus.ByteRange{Offset: p.Offset, Length: half}, false})
	q.read(d, part{corpus.ByteRange{Offset: p.Offset + half, Length: p.Length - half}, false})
}

// sum is the digest of a part of the disk; ok is false where reading fails.
func (q *qemuReader) sum(x corpus.ByteRange) (sum string, ok bool) {
	block := uint64(2 << 20)
	for x.Offset%block != 0 || x.Length%block != 0 {
		block /= 2
	}
	require.GreaterOrEqual(q.t, block, uint64(512))
	args := []string{"dd", "-O", "raw", fmt.Sprintf("bs=%d", block), fmt.Sprintf("skip=%d", x.Offset/block),
		// dd counts what it skips as well.
		fmt.Sprintf("count=%d", (x.Offset+x.Length)/block), "of=" + q.out}
	last := len(q.access) - 1
	args = append(append(args, q.access[:last]...), "if="+q.access[last])
	os.Remove(q.out)
	run := qemutest.Run(q.t, qemutest.QemuImg, args...)
	if run.RC != 0 {
		return "", false
	}
	f, err := os.Open(q.out)
	require.NoError(q.t, err)
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	require.NoError(q.t, err)
	require.EqualValues(q.t, x.Length, n, "%v", args)
	return fmt.Sprintf("%x", h.Sum(nil)), true
}
