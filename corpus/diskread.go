package corpus

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/qcheck/qcheck/qcow2"
)

// DiskRead is what a reader gets of a virtual disk: digests of parts of it, and the
// parts where reading fails.
type DiskRead struct {
	// Size is the disk's, in bytes.
	Size uint64 `json:"size"`
	// SHA256 is the digest of the whole disk, in hex; empty where the disk is larger than
	// 64 MiB, or where a part of it cannot be read.
	SHA256 string `json:"sha256,omitempty"`
	// Samples are digests of parts where SHA256 is empty. They need not cover the disk.
	Samples []Sample `json:"samples,omitempty"`
	// Unreadable are parts where reading fails.
	Unreadable []ByteRange `json:"unreadable,omitempty"`
}

// ByteRange is a part of a disk, in bytes.
type ByteRange struct {
	Offset uint64 `json:"offset"`
	Length uint64 `json:"length"`
}

// Sample is the digest of a part of a disk.
type Sample struct {
	ByteRange
	SHA256 string `json:"sha256"` // in hex
}

// mostHashed is the size of the largest virtual disk, in bytes, of which there is a
// digest of the whole.
const mostHashed = 64 << 20

// SampleRanges gives the parts of a disk of size bytes that are compared: all of it
// where it is small, else the first and the last bytes and some where data was written.
func (img *Image) SampleRanges(size uint64) []ByteRange {
	if size <= mostHashed {
		if size == 0 {
			return nil
		}
		return []ByteRange{{0, size}}
	}
	const part, most = 64 << 10, 6
	rs := []ByteRange{{0, part}}
	end := uint64(part)
	take := func(at uint64) {
		at = max(at&^(part-1), end)
		if at+part <= size {
			rs = append(rs, ByteRange{at, part})
			end = at + part
		}
	}
	var starts []uint64
	for _, r := range img.guest.stored() {
		starts = append(starts, uint64(r.start)*chunkSize)
	}
	for i, at := range starts {
		// The first few, and some of the others.
		if i < most || i%(len(starts)/most+1) == 0 {
			take(at)
		}
	}
	if last := (size - part) &^ (qcow2.SectorSize - 1); last >= end {
		rs = append(rs, ByteRange{last, size - last})
	}
	return rs
}

// digest is the digest of a part of a disk, in hex.
func digest(r io.ReaderAt, x ByteRange) (string, error) {
	h := sha256.New()
	if n, err := io.Copy(h, io.NewSectionReader(r, int64(x.Offset), int64(x.Length))); err != nil || uint64(n) != x.Length {
		return "", fmt.Errorf("%d of %d bytes at %#x could be read: %w", n, x.Length, x.Offset, err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// GuestRead is what a guest reads of a sound image's disk.
func (img *Image) GuestRead() DiskRead {
	d := DiskRead{Size: img.size}
	for _, x := range img.SampleRanges(img.size) {
		sum, _ := digest(img.guest, x) // a Store's reads do not fail within its size
		d.Samples = append(d.Samples, Sample{x, sum})
	}
	return d.settled()
}

// settled names the digest of the whole disk as such.
func (d DiskRead) settled() DiskRead {
	switch {
	case d.Size == 0:
		d.SHA256 = fmt.Sprintf("%x", sha256.Sum256(nil))
	case len(d.Samples) == 1 && d.Samples[0].ByteRange == ByteRange{0, d.Size}:
		d.SHA256, d.Samples = d.Samples[0].SHA256, nil
	}
	return d
}

// Text is the disk's line in qemu_read.txt, less the name.
func (d DiskRead) Text() string {
	if d.SHA256 != "" && d.Size > 0 {
		d.Samples = []Sample{{ByteRange{0, d.Size}, d.SHA256}}
	}
	var b strings.Builder
	fmt.Fprint(&b, d.Size)
	for _, s := range d.Samples {
		fmt.Fprintf(&b, " %d+%d=%s", s.Offset, s.Length, s.SHA256)
	}
	for _, x := range d.Unreadable {
		fmt.Fprintf(&b, " %d+%d!", x.Offset, x.Length)
	}
	return b.String()
}

//go:embed qemu_read.txt
var qemuReadText string

// qemuReads gives what QEMU reads of the images that are not sound, as recorded in
// qemu_read.txt by a test that asks it.
var qemuReads = sync.OnceValue(func() map[string]DiskRead {
	reads := make(map[string]DiskRead)
	for line := range strings.Lines(qemuReadText) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(line, "#") {
			continue
		}
		size, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			continue
		}
		d := DiskRead{Size: size}
		for _, part := range f[2:] {
			d.parse(part)
		}
		reads[f[0]] = d.settled()
	}
	return reads
})

// parse adds a part as [DiskRead.Text] writes it.
func (d *DiskRead) parse(part string) {
	place, sum, sampled := strings.Cut(part, "=")
	offset, length, _ := strings.Cut(strings.TrimSuffix(place, "!"), "+")
	var x ByteRange
	var err1, err2 error
	x.Offset, err1 = strconv.ParseUint(offset, 10, 64)
	x.Length, err2 = strconv.ParseUint(length, 10, 64)
	switch {
	case err1 != nil || err2 != nil:
	case sampled:
		d.Samples = append(d.Samples, Sample{x, sum})
	default:
		d.Unreadable = append(d.Unreadable, x)
	}
}

// QEMURead tells what QEMU reads of the case's disk; ok is false where it does not open
// the image, or was not asked. img is the case's image, built.
func (c *Case) QEMURead(img *Image) (d DiskRead, ok bool) {
	switch {
	case !c.QEMU.Checked || c.QEMU.ReadOnly != "ok":
		return d, false
	case c.Healthy():
		d = img.GuestRead()
		if d.Size%qcow2.SectorSize != 0 {
			return d, false // it has whole sectors only
		}
		return d, true
	}
	d, ok = qemuReads()[c.Name]
	return d, ok
}
