package report

import (
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// BitmapList is what `qcheck bitmaps IMAGE` shows.
type BitmapList struct {
	Name        string // of the image, as the user gave it
	VirtualSize uint64 // bytes
	Bitmaps     []check.BitmapInfo
	// Live tells that a running VM has the image open.
	Live bool
}

// JSON writes the list as one object.
func (l *BitmapList) JSON(w io.Writer) error {
	name, _ := raw(l.Name)
	bitmaps, omitted := toBitmaps(l.Bitmaps, l.Live)
	return writeJSON(w, struct {
		Filename       string       `json:"filename"`
		VirtualSize    uint64       `json:"virtual-size"`
		Bitmaps        []jsonBitmap `json:"bitmaps"`
		BitmapsOmitted int          `json:"bitmaps-omitted,omitempty"`
	}{name, l.VirtualSize, bitmaps, omitted})
}

// Human writes the list for people.
func (l *BitmapList) Human(w io.Writer, opts Options) error {
	p := &printer{w: w, width: opts.Width, style: newStyle(opts.Color)}
	if len(l.Bitmaps) == 0 {
		p.linef("%s: no bitmaps", printable(l.Name))
		return p.err
	}
	p.bitmaps(l.Bitmaps, l.Live)
	return p.err
}

// bitmaps writes a table of bitmaps.
func (p *printer) bitmaps(bs []check.BitmapInfo, live bool) {
	rows := [][]string{{"BITMAP", "GRANULARITY", "STATE", "FLAGS"}}
	for i := range bs[:min(len(bs), maxEntries)] {
		b := &bs[i]
		flags := strings.Join(bitmapFlags(b.Flags), ",")
		if flags == "" {
			flags = "-"
		}
		rows = append(rows, []string{check.Excerpt(b.Name), granularityText(b.GranularityBits), stateText(b, live), flags})
	}
	p.table(rows)
	p.leftOut(len(bs)-maxEntries, "bitmaps")
}

// stateText is the state of a bitmap in a table.
func stateText(b *check.BitmapInfo, live bool) string {
	switch state := stateOf(b, live); {
	case b.Why != "":
		return string(state) + " (" + printable(b.Why) + ")"
	case state == stateInUse:
		return "in use by the running VM"
	default:
		return string(state)
	}
}

// leftOut says that a table has not all there is.
func (p *printer) leftOut(n int, what string) {
	if n > 0 {
		p.linef("and %d more %s", n, what)
	}
}

// BitmapDetail is what `qcheck bitmaps IMAGE NAME` shows.
type BitmapDetail struct {
	Name        string // of the image, as the user gave it
	VirtualSize uint64 // bytes
	Bitmap      check.BitmapInfo
	// Live tells that a running VM has the image open.
	Live bool
	// Content tells that the bitmap's content may be used. The fields below
	// are not looked at otherwise.
	Content    bool
	DirtyBytes uint64
	// Digest is QEMU's SHA-256 of the content in lower case hexadecimal, ""
	// where there is none.
	Digest string
	// Extents gives the dirty ranges in the order of the disk. They are
	// written as they come: a bitmap can have more than memory holds.
	Extents iter.Seq2[qcow2.DirtyExtent, error]
}

// JSON writes the bitmap as one object. When reading the extents fails that is
// the error, and what was written is no complete object.
func (d *BitmapDetail) JSON(w io.Writer) error {
	name, _ := raw(d.Name)
	head := struct {
		Filename    string `json:"filename"`
		VirtualSize uint64 `json:"virtual-size"`
		jsonBitmap
		DirtyBytes *uint64 `json:"dirty-bytes,omitempty"`
		SHA256     string  `json:"sha256,omitempty"`
	}{Filename: name, VirtualSize: d.VirtualSize, jsonBitmap: toBitmap(&d.Bitmap, d.Live)}
	if !d.Content {
		return writeJSON(w, head)
	}
	head.DirtyBytes, head.SHA256 = &d.DirtyBytes, d.Digest
	b, err := marshal(head, "", indent)
	if err != nil {
		return err
	}
	// The object is opened again to take the extents one by one.
	b = append(b[:len(b)-len("\n}")], ",\n"+indent+`"extents": [`...)
	if _, err := w.Write(b); err != nil {
		return err
	}
	sep := "\n"
	for x, err := range d.Extents {
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, `%s%s{ "start": %d, "length": %d, "dirty": true }`,
			sep, indent+indent, uint64(x.Start), x.Length); err != nil {
			return err
		}
		sep = ",\n"
	}
	end := "]\n}\n"
	if sep != "\n" {
		end = "\n" + indent + end
	}
	_, err = io.WriteString(w, end)
	return err
}

// Human writes the bitmap for people, with its first extents, or with all of them
// for [Options.Verbose].
func (d *BitmapDetail) Human(w io.Writer, opts Options) error {
	p := &printer{w: w, width: opts.Width, style: newStyle(opts.Color)}
	f := &fields{printer: p, width: 14}
	b := &d.Bitmap
	f.add("bitmap", check.Excerpt(b.Name))
	f.add("image", printable(d.Name))
	state := stateText(b, d.Live)
	switch {
	case b.Why != "" || stateOf(b, d.Live) == stateInUse:
	case b.State == check.BitmapEnabled:
		state += " (records writes)"
	case b.State == check.BitmapDisabled:
		state += " (kept as it is)"
	case b.State == check.BitmapInconsistent:
		state += " (in use: not closed cleanly)"
	}
	f.add("state", state)
	f.add("granularity", granularityText(b.GranularityBits))
	switch {
	case d.Content:
	case stateOf(b, d.Live) == stateInUse:
		f.add("content", "in the VM's memory; what the image has of it is older")
		return p.err
	default:
		f.add("content", "must not be used")
		return p.err
	}
	f.addf("dirty", "%s of %s (%s)", size(d.DirtyBytes), size(d.VirtualSize), percent(d.DirtyBytes, d.VirtualSize))
	if d.Digest != "" {
		f.add("sha256", d.Digest)
	}
	return d.extentTable(p, opts.Verbose)
}

func (d *BitmapDetail) extentTable(p *printer, all bool) error {
	n := 0
	for x, err := range d.Extents {
		if err != nil {
			return err
		}
		if n == 0 {
			p.line("")
			p.linef("%-20s %s", "DIRTY FROM", "LENGTH")
		}
		if n == listed && !all {
			p.line("… (--output=json lists all of them)")
			break
		}
		p.linef("%-20v %s", x.Start, size(x.Length))
		if p.err != nil {
			break
		}
		n++
	}
	return p.err
}
