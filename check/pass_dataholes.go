package check

import (
	"bytes"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// Clusters that are allocated and that the file system does not store read as zeros. That
// is in order where clusters were allocated in advance, and in a copy that leaves zeros out.
// It is not where a hole was punched in the wrong place. The three look the same, but for
// what is around: the first two leave clusters that are stored in part as well, or very many
// holes.

// holeRun is a run of allocated clusters of a disk, one after the other, that are not stored.
type holeRun struct {
	entries qcow2.Extent    // the L2 entries
	first   problem.Finding // that begins the finding about them
	guest   uint64          // byte of the disk
	n       uint64          // clusters
}

// holeList collects runs of holes.
type holeList struct {
	runs    []holeRun
	most    int    // runs that are kept
	cluster uint64 // bytes
	// more is how many clusters the others have.
	more uint64

	holes, stored, partial uint64 // clusters
}

// join adds what comes behind.
func (l *holeList) join(o *holeList) {
	l.holes, l.stored, l.partial, l.more = l.holes+o.holes, l.stored+o.stored, l.partial+o.partial, l.more+o.more
	for i := range o.runs {
		l.add(o.runs[i])
	}
}

// add takes a run; one that carries on the last one is joined to it.
func (l *holeList) add(r holeRun) {
	if k := len(l.runs) - 1; k >= 0 && l.more == 0 {
		last := &l.runs[k]
		if last.entries.Offset+qcow2.HostOffset(last.entries.Length) == r.entries.Offset && last.guest+last.n*l.cluster == r.guest {
			last.entries.Length += r.entries.Length
			last.n += r.n
			return
		}
	}
	if len(l.runs) >= l.most {
		l.more += r.n
		return
	}
	l.runs = append(l.runs, r)
}

// hole looks whether a cluster that is allocated is stored.
func (w *dataWorker) hole(r *dataResult, t *l2table, i int, j *judgement) {
	if w.zeroFlag && j.entry.Zero() || w.entrySize == 16 && j.bitmap.Allocated() == 0 {
		return // it reads as zeros whatever is there
	}
	size := w.c.g.ClusterSize()
	off := j.entry.Offset()
	if !w.isHole(off, size) {
		r.holes.stored++
		if start, end := w.known.start, w.known.end; off < start || off+qcow2.HostOffset(size) > end && end < qcow2.HostOffset(w.fileSize) {
			r.holes.partial++
		}
		return
	}
	r.holes.holes++
	f := w.c.entryFinding(t, i)
	r.holes.add(holeRun{entries: at(f.Extent.Offset, uint64(w.entrySize)), first: f, guest: uint64(*f.GuestOffset), n: 1})
}

// punched tells that nothing but holes in the wrong places explains them: they are few, and
// all other clusters are stored as a whole. One in 16 is few.
func (l *holeList) punched() bool { return l.partial == 0 && l.holes > 0 && l.holes <= l.stored/16 }

// reportHoles reports the runs of holes.
func (c *run) reportHoles(l *holeList) {
	severity, why := problem.Note, "clusters that were allocated in advance, or zeros that a copy has left out, look the same"
	if l.punched() {
		severity, why = problem.Warning, "all other clusters are stored as a whole: a hole may have been punched in the wrong place"
	}
	for i := range l.runs {
		r := &l.runs[i]
		f := r.first
		f.Code, f.Severity, f.Extent, f.Count = problem.ClusterNotStored, severity, r.entries, r.n
		f.Message = problem.Say("%s: %d allocated clusters are holes of the file, so that guest %s reads as zeros; %s",
			f.Path, r.n, guestRange(r.guest, r.n<<c.g.ClusterBits), why)
		if r.n == 1 {
			f.Message = problem.Say("%s: an allocated cluster is a hole of the file, so that guest %s reads as zeros; %s",
				f.Path, guestRange(r.guest, c.g.ClusterSize()), why)
		}
		c.Add(f)
	}
	if l.more > 0 {
		c.Count(problem.ClusterNotStored, severity, l.more)
	}
}

// checkKeyMaterial tests that the key material of LUKS key slots can be some. It is random:
// a sector of it that has only one value is damaged, and any damage makes the slot useless.
func (c *run) checkKeyMaterial() {
	ext := c.img.Extension(qcow2.ExtCrypto)
	if c.h.CryptMethod != qcow2.CryptLUKS || ext == nil || ext.Overruns() || ext.Length != qcow2.CryptoExtensionSize {
		return
	}
	p := qcow2.DecodeCryptoExtension(ext.Data)
	b := make([]byte, qcow2.LUKSHeaderSize)
	if p.Length > maxCryptoHeader || c.img.ReadAt(b, p.Offset) != nil || len(luksFaults(b, p.Length)) > 0 {
		return // which has been reported
	}
	h := qcow2.DecodeLUKSHeader(b)
	good := 0
	var bad []problem.Finding
	for i, s := range h.KeySlots {
		if !s.Enabled() {
			continue
		}
		offset, length := s.Material(h.KeyBytes)
		x, err := c.deadSector(at(p.Offset+qcow2.HostOffset(offset), length))
		if err != nil {
			c.trouble(Owner{Structure: problem.StructCryptoHeader}, x, err)
			continue
		}
		if x.Length == 0 {
			good++
			continue
		}
		bad = append(bad, problem.Finding{Code: problem.LUKSHeaderDamaged, Extent: x,
			Message: problem.Say("key slot %d of the LUKS header is enabled, but %d bytes of its key material at %v are all the same: no password opens it", i, x.Length, x.Offset)})
	}
	for _, f := range bad {
		if good > 0 {
			f.Severity = problem.Warning
			f.Message.And("; %d others can", good)
		}
		c.Add(f)
	}
}

// deadSector gives the first sector of a range that has only one value; its length is 0
// where there is none.
func (c *run) deadSector(x qcow2.Extent) (qcow2.Extent, error) {
	buf := make([]byte, 1<<16)
	for x.Length > 0 {
		n := min(x.Length, uint64(len(buf)))
		if err := c.img.ReadAt(buf[:n], x.Offset); err != nil {
			return at(x.Offset, n), err
		}
		for k := uint64(0); k+qcow2.SectorSize <= n; k += qcow2.SectorSize {
			if s := buf[k : k+qcow2.SectorSize]; len(bytes.TrimLeft(s, string(s[:1]))) == 0 {
				return at(x.Offset+qcow2.HostOffset(k), uint64(qcow2.SectorSize)), nil
			}
		}
		x = at(x.Offset+qcow2.HostOffset(n), x.Length-n)
	}
	return qcow2.Extent{}, nil
}

// checkRawDataFile tests that a data file that is the disk by itself is as long as the disk.
func (c *run) checkRawDataFile() {
	size := c.h.Size &^ (qcow2.SectorSize - 1)
	if !c.h.AutoclearFeatures.Has(qcow2.AutoclearRawData) || !c.h.HasDataFile() || !c.data.found || c.data.size >= size || c.Met(problem.DataFileMissing) {
		return
	}
	c.Add(problem.Finding{
		Code: problem.DataFileMissing, Severity: problem.Warning, Extent: c.data.name, Value: problem.Number(c.data.size), Expected: problem.Number(size),
		Message: problem.Say("the external data file is said to be the disk by itself, but has %d bytes of its %d: whoever reads it as a raw image sees a shorter disk", c.data.size, size),
	})
}
