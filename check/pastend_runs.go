package check

import (
	"fmt"

	"github.com/qcheck/qcheck/check/problem"
)

// describeRuns words the findings that are runs of entries that lead past the end of the
// file: how many, and what part of the disk they are for.
func (c *run) describeRuns(all []problem.Finding) {
	for i := range all {
		f := &all[i]
		if f.Count < 2 || f.Unlisted || !f.Code.Is(problem.LeadsPastEnd) {
			continue
		}
		covers, what := c.g.ClusterSize(), "data"
		switch f.Code {
		case problem.L1PastEnd:
			covers, what = c.g.L2Coverage(), "L2 tables"
		case problem.CompressedMisplaced:
			what = "compressed data"
		case problem.RefcountEntryPastEnd:
			what = "refcount blocks"
		case problem.BitmapEntryPastEnd:
			what = fmt.Sprintf("data of bitmap %s", f.Bitmap)
		}
		others := "the entry"
		if f.Count > 2 {
			others = fmt.Sprintf("the %d entries", f.Count-1)
		}
		f.Message = problem.Say("%s and %s behind it name %s past the end of the file at 0x%x", f.Path, others, what, c.img.Size())
		if f.GuestOffset != nil {
			from, length := uint64(*f.GuestOffset), f.Count*covers
			if f.Snapshot == "" && from < c.h.Size {
				length = min(length, c.h.Size-from)
			}
			f.Message.And(": guest %s", guestRange(from, length))
			if f.Snapshot == "" && from >= c.h.Size {
				f.Message.And(", past the end of the disk")
			}
		}
	}
}

// windowRange names the part of the disk that an L2 table is for.
func (c *run) windowRange(t *l2table) string {
	from, length := uint64(c.windowStart(t.window)), c.g.L2Coverage()
	if t.active() && from < c.h.Size {
		length = min(length, c.h.Size-from)
	}
	return guestRange(from, length)
}
