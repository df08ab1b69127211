package rescue

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/qcow2"
)

// InPlace gives the plan as one that [repair.Apply] carries out on the file itself, under
// an undo journal.
func (p *Plan) InPlace() (*repair.Plan, error) {
	out := &repair.Plan{OldSize: p.OldSize, NewSize: max(p.NewSize, p.OldSize), Before: p.repair.Before, After: p.repair.After, Lost: p.Lost}
	var ranges []qcow2.Extent
	for _, c := range p.image.changes {
		ranges = append(ranges, qcow2.Extent{Offset: c.Offset, Length: uint64(len(c.New))})
	}
	for e := range p.repair.Edits.All() {
		ranges = append(ranges, qcow2.Extent{Offset: e.Offset, Length: uint64(len(e.New))})
	}
	for _, x := range merged(ranges) {
		will := make([]byte, x.Length)
		if _, err := p.image.ReadAt(will, int64(x.Offset)); err != nil && uint64(x.Offset)+x.Length <= uint64(p.image.size) {
			return nil, err
		}
		p.over(will, x.Offset)
		was := make([]byte, x.Length)
		if err := p.image.readBase(was, int64(x.Offset)); err != nil {
			return nil, fmt.Errorf("what is to be changed at %v cannot be read, so that it could not be taken back: %w", x.Offset, err)
		}
		const step = 4096
		for i := 0; i < len(was); i += step {
			end := min(i+step, len(was))
			if slices.Equal(was[i:end], will[i:end]) {
				continue
			}
			e := repair.Edit{Stage: repair.StageNew, Offset: x.Offset + qcow2.HostOffset(i), Old: was[i:end], New: will[i:end], Reason: "rescue"}
			if err := out.Edits.Add(e); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// over puts the edits of the repair on top of what is at an offset. Those are in the order
// of their stages, so that the last one holds.
func (p *Plan) over(b []byte, off qcow2.HostOffset) {
	end := off + qcow2.HostOffset(len(b))
	for e := range p.repair.Edits.All() {
		stop := e.Offset + qcow2.HostOffset(len(e.New))
		if e.Offset >= end || stop <= off {
			continue
		}
		from, to := max(e.Offset, off), min(stop, end)
		copy(b[from-off:to-off], e.New[from-e.Offset:])
	}
}

// merged puts ranges in order and joins those that touch.
func merged(list []qcow2.Extent) []qcow2.Extent {
	slices.SortFunc(list, func(a, b qcow2.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	var out []qcow2.Extent
	for _, x := range list {
		if k := len(out) - 1; k >= 0 && x.Offset <= out[k].Offset+qcow2.HostOffset(out[k].Length) {
			out[k].Length = max(out[k].Length, uint64(x.Offset-out[k].Offset)+x.Length)
			continue
		}
		out = append(out, x)
	}
	return out
}
