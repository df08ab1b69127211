package report

import (
	"strings"

	"github.com/qcheck/qcheck/check"
)

// Live is what a QEMU that has an image open says of it.
type Live struct {
	Guest   string // the name of the virtual machine; empty where it has none
	Node    string
	Bitmaps []check.LiveBitmap
}

type jsonLive struct {
	Guest          string           `json:"guest,omitempty"`
	Node           string           `json:"node"`
	Bitmaps        []jsonLiveBitmap `json:"bitmaps"`
	BitmapsOmitted int              `json:"bitmaps-omitted,omitempty"`
}

type jsonLiveBitmap struct {
	Name         string            `json:"name"`
	Granularity  uint64            `json:"granularity"`
	DirtyBytes   uint64            `json:"dirty-bytes"`
	State        check.BitmapState `json:"state"`
	Recording    bool              `json:"recording"`
	Busy         bool              `json:"busy"`
	Persistent   bool              `json:"persistent"`
	Inconsistent bool              `json:"inconsistent"`
}

func toLive(l *Live) *jsonLive {
	if l == nil {
		return nil
	}
	guest, _ := raw(l.Guest)
	node, _ := raw(l.Node)
	j := &jsonLive{Guest: guest, Node: node, Bitmaps: []jsonLiveBitmap{}}
	left := newRoom()
	for i := range l.Bitmaps {
		b := &l.Bitmaps[i]
		if !left.take(b.Name) {
			j.BitmapsOmitted = len(l.Bitmaps) - i
			break
		}
		name, _ := raw(b.Name)
		j.Bitmaps = append(j.Bitmaps, jsonLiveBitmap{Name: name, Granularity: b.Granularity, DirtyBytes: b.Count, State: b.State(),
			Recording: b.Recording, Busy: b.Busy, Persistent: b.Persistent, Inconsistent: b.Inconsistent})
	}
	return j
}

// live writes the bitmaps in the memory of QEMU.
func (h *Human) live(l *Live) {
	if l == nil {
		return
	}
	h.line("")
	who := "QEMU has this image open as node " + printable(l.Node)
	if l.Guest != "" {
		who = "VM " + printable(l.Guest) + " has this image open as node " + printable(l.Node)
	}
	if len(l.Bitmaps) == 0 {
		h.line(who + ", without bitmaps")
		return
	}
	h.line(who + ", with these bitmaps:")
	rows := [][]string{{"BITMAP", "GRANULARITY", "STATE", "DIRTY"}}
	for i := range l.Bitmaps[:min(len(l.Bitmaps), maxEntries)] {
		b := &l.Bitmaps[i]
		state := []string{string(b.State())}
		if b.Busy {
			state = append(state, "busy")
		}
		if !b.Persistent {
			state = append(state, "not persistent")
		}
		rows = append(rows, []string{check.Excerpt(b.Name), size(b.Granularity), strings.Join(state, ", "), size(b.Count)})
	}
	h.table(rows)
	h.leftOut(len(l.Bitmaps)-maxEntries, "bitmaps")
}
