package corpus

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
)

// IndexName is the name of the file that [Export] puts beside the images.
const IndexName = "index.json"

// Index is what index.json holds: everything about the images that a test in any
// language needs.
type Index struct {
	// Format is raised when what follows changes its meaning.
	Format int `json:"format"`
	// Secret is the passphrase of the encrypted images.
	Secret string  `json:"secret"`
	Images []Entry `json:"images"`
}

// Entry tells of one image.
type Entry struct {
	Name  string `json:"name"`  // of the case, as `qcheck corpus list` has it
	File  string `json:"file"`  // of the image, in the same folder
	Story string `json:"story"` // how such an image comes about, or why it is here
	// Size is the file's, in bytes; nil in a list that builds no images.
	Size *int64 `json:"size,omitempty"`
	Made Made   `json:"made"`
	// Files are others that belong to the image: its data file and its backing
	// files. Missing are those that are named and not there.
	Files   []string `json:"files,omitempty"`
	Missing []string `json:"missing,omitempty"`
	// InMemoryOnly images are larger than any file can be, and never written.
	InMemoryOnly bool `json:"in-memory-only,omitempty"`
	// Damage is what was done to a sound image, in order.
	Damage []DamageEntry `json:"damage"`
	// Findings are those that a check must give. There may be others where
	// OtherFindings is set.
	Findings      []WantEntry `json:"findings"`
	OtherFindings bool        `json:"other-findings"`
	// Provided is what the findings take besides the image; nil where it is nothing.
	Provided *ProvidedEntry `json:"provided,omitempty"`
	// QEMU is what QEMU 10.0 does; nil where it is not known.
	QEMU *QEMUEntry `json:"qemu,omitempty"`
	// Repair is what repairs achieve; nil where it was not tried.
	Repair *RepairEntry `json:"repair,omitempty"`
}

// DamageEntry is one change, in words, and the bytes of the image that it is about.
type DamageEntry struct {
	What   string  `json:"what"`
	Offset *uint64 `json:"offset,omitempty"`
	Length *uint64 `json:"length,omitempty"`
}

// ProvidedEntry tells what has to be brought about, as the file cannot.
type ProvidedEntry struct {
	// Unreadable are places where reading the image must fail, as on a broken disk.
	Unreadable []PlaceEntry `json:"unreadable,omitempty"`
	// MemoryLimit is what the reader may take to count references, in bytes.
	MemoryLimit int64 `json:"memory-limit,omitempty"`
	// BitmapData asks to read all that the bitmaps hold (`qcheck --bitmap-data`).
	BitmapData bool `json:"bitmap-data,omitempty"`
	// Data asks to look at the guest's data (`qcheck --data`).
	Data bool `json:"data,omitempty"`
}

// PlaceEntry is bytes of the image, in words, and where they are.
type PlaceEntry struct {
	Where  string  `json:"where"`
	Offset *uint64 `json:"offset,omitempty"`
	Length *uint64 `json:"length,omitempty"`
}

// WantEntry is a finding that must come.
type WantEntry struct {
	Code     problem.Code `json:"code"`
	Severity string       `json:"severity"`
	// Where names the bytes that the finding must cover; Offset and Length are
	// where they are. They are left out where any place will do.
	Where    string  `json:"where,omitempty"`
	Offset   *uint64 `json:"offset,omitempty"`
	Length   *uint64 `json:"length,omitempty"`
	Count    uint64  `json:"count,omitempty"`
	Bitmap   string  `json:"bitmap,omitempty"`
	Snapshot string  `json:"snapshot,omitempty"`
}

// QEMUEntry is [QEMU] in JSON.
type QEMUEntry struct {
	Check     int               `json:"check"` // exit code of `qemu-img check`; 134 is a crash
	ReadOnly  check.OpenOutcome `json:"read-only"`
	ReadWrite check.OpenOutcome `json:"read-write"`
	// Read is what it reads of the disk; nil where it does not open the image, or was not
	// asked, and in a list that builds no images.
	Read *DiskRead `json:"read,omitempty"`
}

// RepairEntry is [Repair] in JSON.
type RepairEntry struct {
	Safe  check.Verdict `json:"safe"`
	Lossy check.Verdict `json:"lossy"`
}

// Entry tells of the case, as far as that takes no building of its image.
func (c *Case) Entry() Entry {
	e := Entry{Name: c.Name, File: c.Filename(), Story: c.Story, Missing: c.Missing, OtherFindings: c.Any,
		Damage: []DamageEntry{}, Findings: []WantEntry{}, Made: c.Spec.made(), InMemoryOnly: c.Huge}
	for _, d := range c.Damage {
		e.Damage = append(e.Damage, DamageEntry{What: d.String()})
	}
	for _, w := range c.Want {
		e.Findings = append(e.Findings, WantEntry{Code: w.Code, Severity: w.ExpectedSeverity().String(), Where: w.At.String(),
			Count: w.Count, Bitmap: w.Bitmap, Snapshot: w.Snapshot})
	}
	if len(c.Unreadable) > 0 || c.MemoryLimit > 0 || c.BitmapData || c.Data {
		e.Provided = &ProvidedEntry{MemoryLimit: c.MemoryLimit, BitmapData: c.BitmapData, Data: c.Data}
		for _, p := range c.Unreadable {
			e.Provided.Unreadable = append(e.Provided.Unreadable, PlaceEntry{Where: p.String()})
		}
	}
	if q := c.QEMU; q.Checked {
		e.QEMU = &QEMUEntry{Check: q.Check, ReadOnly: q.ReadOnly, ReadWrite: q.ReadWrite}
	}
	if r, ok := repairVerdicts()[c.Name]; ok {
		e.Repair = &RepairEntry{r.Safe, r.Lossy}
	}
	return e
}

// BuildEntry builds the image as [Case.Build] does, and tells of it in full.
func (c *Case) BuildEntry() (*Image, Entry, error) {
	e := c.Entry()
	img, err := c.build(func(i int, offset, length uint64) {
		e.Damage[i].Offset, e.Damage[i].Length = &offset, &length
	})
	if err != nil {
		return nil, e, err
	}
	size := img.Size()
	e.Size = &size
	e.Files = slices.Sorted(maps.Keys(img.Siblings))
	virtual := img.size
	e.Made.VirtualSize = &virtual
	if c.Healthy() {
		read := img.GuestRead()
		e.Made.GuestSHA256, e.Made.GuestSamples = read.SHA256, read.Samples
	}
	if read, ok := c.QEMURead(img); ok {
		e.QEMU.Read = &read
	}
	for i, p := range c.Unreadable {
		x, err := img.Find(p)
		if err != nil {
			return nil, e, fmt.Errorf("%s: %w", c.Name, err)
		}
		offset := uint64(x.Offset)
		e.Provided.Unreadable[i].Offset, e.Provided.Unreadable[i].Length = &offset, &x.Length
	}
	for i, w := range c.Want {
		if w.At.String() == "" {
			continue
		}
		x, err := img.Find(w.At)
		if err != nil {
			return nil, e, fmt.Errorf("%s: %w", c.Name, err)
		}
		offset := uint64(x.Offset)
		e.Findings[i].Offset, e.Findings[i].Length = &offset, &x.Length
	}
	return img, e, nil
}

// writeIndex writes index.json.
func writeIndex(dir string, entries []Entry) (err error) {
	f, err := os.Create(filepath.Join(dir, IndexName))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	enc := json.NewEncoder(f)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(Index{Format: 1, Secret: Secret, Images: entries})
}
