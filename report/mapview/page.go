package mapview

import (
	_ "embed"
	"encoding/json"
	"html"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/filemap"
)

// maxListed is how many findings a page lists.
const maxListed = 500

//go:embed page/page.html
var pageHTML string

//go:embed page/page.css
var pageCSS string

//go:embed page/page.js
var pageJS string

// model is what the page is given. Rows of cells are texts, since there are many of them:
// runs of equal cells, separated by blanks, each "COUNT*CELL" or "CELL" where it is one.
type model struct {
	Name        string      `json:"filename"`
	Verdict     string      `json:"verdict"`
	FileSize    uint64      `json:"file-size"`
	ClusterSize uint64      `json:"cluster-size"`
	PerCell     uint64      `json:"clusters-per-cell"`
	Kinds       []string    `json:"kinds"`
	Totals      []uint64    `json:"totals"`
	Cells       string      `json:"cells"` // a cell is KIND:CLUSTERS,… with kinds as letters from a on
	Disk        modelDisk   `json:"disk"`
	Findings    []modelFind `json:"findings"`
	Omitted     int         `json:"findings-omitted,omitempty"`
	Fragmented  uint64      `json:"fragmented-clusters"`
	Allocated   uint64      `json:"allocated-clusters"`
	Extents     uint64      `json:"pieces"`
	Longest     uint64      `json:"longest-piece"`
}

type modelDisk struct {
	Size     uint64     `json:"size"`
	PerCell  uint64     `json:"bytes-per-cell"`
	Rows     []modelRow `json:"rows"`
	LeftOut  []string   `json:"left-out,omitempty"`
	KindText []string   `json:"kinds"`
}

// modelRow is a disk or a bitmap. A cell of a disk is UNALLOCATED,ZERO,DATA,COMPRESSED, one of a
// bitmap a number, each of 255.
type modelRow struct {
	What  string   `json:"what"` // disk, snapshot, bitmap
	Name  string   `json:"name"`
	Cells string   `json:"cells"`
	Bytes []uint64 `json:"bytes"`
	Note  string   `json:"note,omitempty"`
}

type modelFind struct {
	Code     string  `json:"code"`
	Severity string  `json:"severity"`
	Message  string  `json:"message"`
	Offset   *uint64 `json:"offset,omitempty"`
	Cell     int     `json:"cell"`       // of the file; -1: none
	Guest    int     `json:"guest-cell"` // of the disk; -1: none
	Count    uint64  `json:"count"`
}

func newModel(name string, m *filemap.Map) model {
	d := model{
		Name: printable(name), Verdict: string(m.Result.Verdict), FileSize: m.FileSize, ClusterSize: m.ClusterSize, PerCell: m.PerCell,
		Totals: m.Totals[:], Fragmented: m.Result.FragmentedClusters, Allocated: m.Result.AllocatedClusters, Extents: m.Extents, Longest: m.Longest,
		Findings: []modelFind{},
		Disk:     modelDisk{Size: m.DiskSize, PerCell: m.GuestBytes, Rows: []modelRow{}, KindText: []string{"unallocated", "zero", "data", "compressed"}},
	}
	for k := range filemap.Kinds {
		d.Kinds = append(d.Kinds, k.String())
	}
	d.Cells = rle(len(m.Cells), func(i int) string { return fileCell(&m.Cells[i]) })
	disk := func(what, name string, x *filemap.Disk) {
		row := modelRow{What: what, Name: printable(name), Bytes: x.Bytes[:]}
		row.Cells = rle(len(x.Cells), func(i int) string {
			c := x.Cells[i]
			return join(c[:])
		})
		if x.Partly {
			row.Note = "partly unreadable"
		}
		d.Disk.Rows = append(d.Disk.Rows, row)
	}
	if len(m.Active.Cells) > 0 {
		disk("disk", "active disk", &m.Active)
	}
	for i := range m.Snapshots {
		disk("snapshot", label(m.Snapshots[i].ID, m.Snapshots[i].Name), &m.Snapshots[i])
	}
	for i := range m.Bitmaps {
		b := &m.Bitmaps[i]
		d.Disk.Rows = append(d.Disk.Rows, modelRow{What: "bitmap", Name: check.Excerpt(b.Info.Name), Bytes: []uint64{b.Bytes}, Note: printable(b.Why),
			Cells: rle(len(b.Dirty), func(i int) string { return strconv.Itoa(int(b.Dirty[i])) })})
	}
	if m.SnapshotsOmitted > 0 {
		d.Disk.LeftOut = append(d.Disk.LeftOut, count(uint64(m.SnapshotsOmitted), "more snapshot"))
	}
	if m.BitmapsOmitted > 0 {
		d.Disk.LeftOut = append(d.Disk.LeftOut, count(uint64(m.BitmapsOmitted), "more bitmap"))
	}
	d.findings(m)
	return d
}

func (d *model) findings(m *filemap.Map) {
	for i := range m.Result.Findings {
		f := &m.Result.Findings[i]
		if len(d.Findings) == maxListed {
			d.Omitted = len(m.Result.Findings) - i
			return
		}
		e := modelFind{Code: string(f.Code), Severity: f.Severity.String(), Message: printable(f.Text()), Count: f.Count, Cell: -1, Guest: -1}
		if f.Extent.Length > 0 {
			off := uint64(f.Extent.Offset)
			e.Offset = &off
		}
		if cell, ok := cellOf(m, f); ok {
			e.Cell = cell
		}
		if f.GuestOffset != nil && m.GuestBytes > 0 && uint64(*f.GuestOffset) < m.DiskSize {
			e.Guest = int(uint64(*f.GuestOffset) / m.GuestBytes)
		}
		d.Findings = append(d.Findings, e)
	}
}

// fileCell writes a cell of the file.
func fileCell(c *filemap.Cell) string {
	var b strings.Builder
	for k, n := range c {
		if n == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('a' + byte(k))
		b.WriteString(strconv.FormatUint(n, 10))
	}
	return b.String()
}

func join(c []uint8) string {
	var b strings.Builder
	for i, n := range c {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(n)))
	}
	return b.String()
}

// rle writes n cells as runs.
func rle(n int, cell func(i int) string) string {
	var b strings.Builder
	last, times := "", 0
	flush := func() {
		if times == 0 {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		if times > 1 {
			b.WriteString(strconv.Itoa(times) + "*")
		}
		b.WriteString(last)
	}
	for i := range n {
		if s := cell(i); s != last || times == 0 {
			flush()
			last, times = s, 0
		}
		times++
	}
	flush()
	return b.String()
}

// printable makes a text from an image harmless where it is shown.
func printable(s string) string {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' || r == 0x7f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	}) {
		return check.Escape(s)
	}
	return s
}

// JSON writes the map as one object.
func JSON(w io.Writer, name string, m *filemap.Map) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "    ")
	e.SetEscapeHTML(false)
	return e.Encode(newModel(name, m))
}

// HTML writes the map as a page that loads nothing: everything is in it, and it forbids itself
// to ask for more.
func HTML(w io.Writer, name string, m *filemap.Map) error {
	// What stands in the JSON cannot end the element: < > & are escaped in it.
	data, err := json.Marshal(newModel(name, m))
	if err != nil {
		return err
	}
	_, err = strings.NewReplacer("{{title}}", html.EscapeString(printable(name)), "{{css}}", pageCSS, "{{data}}", string(data), "{{js}}", pageJS).WriteString(w, pageHTML)
	return err
}
