// Package mapview shows the map of an image ([filemap.Map]): in a terminal, as one page of
// HTML that needs nothing else, and as JSON.
package mapview

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/filemap"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// The columns of a picture in a terminal: the name of a row, the row, and what it sums up to.
const (
	labelWidth  = 26
	totalWidth  = 24
	leastWidth  = 16
	normalWidth = 100 // where the width is not known
)

// Columns is how many cells fit in a row of a terminal so wide; 0 stands for one whose width is
// not known.
func Columns(width int) int {
	if width <= 0 {
		width = normalWidth
	}
	return max(leastWidth, width-labelWidth-totalWidth)
}

// Text writes the map for a terminal: a row for each owner, higher where more of the column is
// its own.
func Text(w io.Writer, name string, m *filemap.Map) error {
	t := &text{w: w}
	t.printf("%s: %s, %s\n", check.Escape(name), check.ReadableSize(m.FileSize), verdict(m))
	if m.ClusterSize == 0 {
		t.printf("the cluster size is not known, so nothing can be told of who owns what\n")
		return t.err
	}
	t.printf("\nfile: %s of %s, a column is %s\n", count(m.FileSize/m.ClusterSize+min(1, m.FileSize%m.ClusterSize), "cluster"),
		check.ReadableSize(m.ClusterSize), check.ReadableSize(m.PerCell*m.ClusterSize))
	for k := range filemap.Kinds {
		if m.Totals[k] == 0 {
			continue
		}
		var row strings.Builder
		for i := range m.Cells {
			row.WriteString(bar(m.Cells[i][k], m.PerCell))
		}
		t.row(k.String(), row.String(), fmt.Sprintf("%s, %s", count(m.Totals[k], "cluster"), check.ReadableSize(m.Totals[k]*m.ClusterSize)))
	}
	t.findings(m)
	t.guest(m)
	return t.err
}

// verdict says in a few words what was found.
func verdict(m *filemap.Map) string {
	s := string(m.Result.Verdict)
	if n := len(m.Result.Findings); n > 0 {
		s += ", " + count(uint64(n), "finding")
	}
	return s
}

type text struct {
	w   io.Writer
	err error
}

func (t *text) printf(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format, args...)
	}
}

func (t *text) row(label, row, total string) {
	if n := utf8.RuneCountInString(label); n > labelWidth-2 {
		label = string([]rune(label)[:labelWidth-3]) + "…"
	}
	t.printf("%s%s│%s│ %s\n", label, strings.Repeat(" ", labelWidth-1-utf8.RuneCountInString(label)), row, total)
}

// findings marks where something was found.
func (t *text) findings(m *filemap.Map) {
	marks := make([]bool, len(m.Cells))
	n := 0
	for i := range m.Result.Findings {
		f := &m.Result.Findings[i]
		if f.Severity == problem.Note || f.Unlisted {
			continue
		}
		if cell, ok := cellOf(m, f); ok {
			marks[cell] = true
			n++
		}
	}
	if n == 0 {
		return
	}
	row := strings.Repeat(" ", len(marks))
	marked := []rune(row)
	for i, on := range marks {
		if on {
			marked[i] = '▲'
		}
	}
	t.row("findings", string(marked), "`qcheck` says which")
}

// cellOf gives the cell of the file that a finding is about: that of the cluster it names, else
// that of the bytes at fault.
func cellOf(m *filemap.Map, f *problem.Finding) (int, bool) {
	if f.Cluster != nil {
		if cell, ok := m.CellOf(uint64(*f.Cluster) * m.ClusterSize); ok {
			return cell, true
		}
	}
	if f.Extent.Length == 0 {
		return 0, false
	}
	return m.CellOf(uint64(f.Extent.Offset))
}

// guest writes the rows of the disks and the bitmaps.
func (t *text) guest(m *filemap.Map) {
	if len(m.Active.Cells) == 0 {
		return
	}
	t.printf("\ndisk: %s, a column is %s; data in %s, the longest %s\n", check.ReadableSize(m.DiskSize),
		check.ReadableSize(m.GuestBytes), count(m.Extents, "piece"), check.ReadableSize(m.Longest))
	t.disk("allocated", &m.Active)
	for i := range m.Snapshots {
		t.disk("snapshot "+label(m.Snapshots[i].ID, m.Snapshots[i].Name), &m.Snapshots[i])
	}
	t.leftOut(m.SnapshotsOmitted, "snapshots")
	for i := range m.Bitmaps {
		b := &m.Bitmaps[i]
		name := "bitmap " + check.Excerpt(b.Info.Name)
		if b.Dirty == nil {
			t.row(name, strings.Repeat("?", len(m.Active.Cells)), b.Why)
			continue
		}
		var row strings.Builder
		for _, n := range b.Dirty {
			row.WriteString(bar(uint64(n), 255))
		}
		t.row(name, row.String(), check.ReadableSize(b.Bytes)+" dirty")
	}
	t.leftOut(m.BitmapsOmitted, "bitmaps")
}

func (t *text) leftOut(n int, what string) {
	if n > 0 {
		t.printf("and %d more %s\n", n, what)
	}
}

func (t *text) disk(name string, d *filemap.Disk) {
	var row strings.Builder
	for _, c := range d.Cells {
		row.WriteString(bar(uint64(c[qcow2.GuestData])+uint64(c[qcow2.GuestCompressed]), 255))
	}
	total := check.ReadableSize(d.Bytes[qcow2.GuestData]+d.Bytes[qcow2.GuestCompressed]) + " stored"
	if d.Partly {
		total += ", partly unreadable"
	}
	t.row(name, row.String(), total)
}

// label names a snapshot.
func label(id, name string) string {
	if name == "" {
		return check.Excerpt(id)
	}
	return check.Excerpt(name)
}

// bar draws a share of the whole: a space for nothing, and something for anything.
func bar(part, whole uint64) string {
	const bars = " ▁▂▃▄▅▆▇█"
	runes := []rune(bars)
	if part == 0 {
		return " "
	}
	n := len(runes) - 1
	return string(runes[max(1, min(n, int(part*uint64(n)/max(1, whole))))])
}

func count(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
