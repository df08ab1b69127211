package report

import (
	"fmt"
	"math/bits"
	"strconv"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// jsonSnapshot has the keys of `qemu-img info --output=json` first.
type jsonSnapshot struct {
	ID            string `json:"id"`
	Name          string `json:"name"`
	NameEscaped   bool   `json:"name-escaped,omitempty"`
	VMStateSize   uint64 `json:"vm-state-size"`
	DateSec       uint32 `json:"date-sec"`
	DateNsec      uint32 `json:"date-nsec"`
	VMClockSec    uint64 `json:"vm-clock-sec"`
	VMClockNsec   uint64 `json:"vm-clock-nsec"`
	DiskSize      uint64 `json:"disk-size"`
	EntryOffset   uint64 `json:"entry-offset"`
	L1TableOffset uint64 `json:"l1-table-offset"`
	L1Size        uint32 `json:"l1-size"`
}

// toSnapshots gives the first snapshots, and how many are left out.
func toSnapshots(infos []check.SnapshotInfo) (out []jsonSnapshot, omitted int) {
	out = []jsonSnapshot{}
	left := newRoom()
	for i := range infos {
		s := &infos[i]
		if !left.take(s.ID, s.Name) {
			return out, len(infos) - i
		}
		id, idEscaped := raw(s.ID)
		name, nameEscaped := raw(s.Name)
		out = append(out, jsonSnapshot{
			ID: id, Name: name, NameEscaped: idEscaped || nameEscaped, VMStateSize: s.VMStateSize,
			DateSec: s.DateSec, DateNsec: s.DateNsec,
			VMClockSec: s.VMClockNsec / 1e9, VMClockNsec: s.VMClockNsec % 1e9, DiskSize: s.DiskSize,
			EntryOffset: uint64(s.Offset), L1TableOffset: uint64(s.L1TableOffset), L1Size: s.L1Size,
		})
	}
	return out, 0
}

// jsonBitmap has the keys of `qemu-img info --output=json` first.
type jsonBitmap struct {
	Name            string            `json:"name"`
	NameEscaped     bool              `json:"name-escaped,omitempty"`
	Granularity     uint64            `json:"granularity,omitempty"`
	Flags           []string          `json:"flags"`
	GranularityBits uint8             `json:"granularity-bits"`
	Type            uint8             `json:"type"`
	State           check.BitmapState `json:"state"`
	Why             string            `json:"why,omitempty"`
	EntryOffset     uint64            `json:"entry-offset"`
	TableOffset     uint64            `json:"table-offset"`
	TableSize       uint32            `json:"table-size"`
}

func toBitmap(b *check.BitmapInfo, live bool) jsonBitmap {
	name, escaped := raw(b.Name)
	return jsonBitmap{
		Name: name, NameEscaped: escaped, Granularity: granularity(b.GranularityBits), Flags: bitmapFlags(b.Flags),
		GranularityBits: b.GranularityBits, Type: b.Type, State: stateOf(b, live), Why: b.Why,
		EntryOffset: uint64(b.EntryOffset), TableOffset: uint64(b.TableOffset), TableSize: b.TableSize,
	}
}

// toBitmaps gives the first bitmaps, and how many are left out. Live is said of an image
// that a running VM has open.
func toBitmaps(infos []check.BitmapInfo, live bool) (out []jsonBitmap, omitted int) {
	out = []jsonBitmap{}
	left := newRoom()
	for i := range infos {
		if !left.take(infos[i].Name) {
			return out, len(infos) - i
		}
		out = append(out, toBitmap(&infos[i], live))
	}
	return out, 0
}

// stateInUse is the state of a bitmap of an image that a running VM has open: what the
// file says of such a one is as it should be, and the content is in the VM's memory.
const stateInUse check.BitmapState = "in-use"

// stateOf is the state that a report gives a bitmap.
func stateOf(b *check.BitmapInfo, live bool) check.BitmapState {
	if live && b.State == check.BitmapInconsistent {
		return stateInUse
	}
	return b.State
}

// granularity is in bytes; 0 stands for more than 64 bits can hold.
func granularity(bits uint8) uint64 {
	if bits > 63 {
		return 0
	}
	return 1 << bits
}

func granularityText(bits uint8) string {
	if n := granularity(bits); n > 0 {
		return size(n)
	}
	return fmt.Sprintf("2^%d bytes", bits)
}

// bitmapFlags names the flags as QEMU does; reserved ones are "bit-N".
func bitmapFlags(f qcow2.BitmapFlags) []string {
	names := map[qcow2.BitmapFlags]string{
		qcow2.BitmapInUse: "in-use", qcow2.BitmapAuto: "auto", qcow2.BitmapExtraDataCompatible: "extra-data-compatible",
	}
	out := []string{}
	for f != 0 {
		bit := f & -f
		name := names[bit]
		if name == "" {
			name = "bit-" + strconv.Itoa(bits.TrailingZeros32(uint32(bit)))
		}
		out = append(out, name)
		f &^= bit
	}
	return out
}

// feature is a feature bit that is set.
type feature struct {
	Bit   int    `json:"bit"`
	Name  string `json:"name"`
	Known bool   `json:"known"` // to this version of qcheck
}

var featureNames = map[qcow2.FeatureType]map[int]string{
	qcow2.FeatureIncompatible: {0: "dirty", 1: "corrupt", 2: "external data file", 3: "compression type", 4: "extended L2 entries"},
	qcow2.FeatureCompatible:   {0: "lazy refcounts"},
	qcow2.FeatureAutoclear:    {0: "bitmaps", 1: "raw external data"},
}

// features names the bits of a feature field; what is not known here gets the
// name that the image's own feature name table has for it.
func features(typ qcow2.FeatureType, f qcow2.Features, table []qcow2.FeatureName) []feature {
	out := []feature{}
	for v := uint64(f); v != 0; v &= v - 1 {
		bit := bits.TrailingZeros64(v)
		name, known := featureNames[typ][bit]
		for i := 0; !known && name == "" && i < len(table); i++ {
			if t := table[i]; t.Type == typ && int(t.Bit) == bit {
				name = check.Escape(t.Name)
			}
		}
		if name == "" {
			name = "bit " + strconv.Itoa(bit)
		}
		out = append(out, feature{Bit: bit, Name: name, Known: known})
	}
	return out
}

var extensionNames = map[qcow2.ExtensionType]string{
	qcow2.ExtBackingFormat: "backing file format",
	qcow2.ExtFeatureNames:  "feature name table",
	qcow2.ExtBitmaps:       "bitmaps",
	qcow2.ExtCrypto:        "encryption header pointer",
	qcow2.ExtDataFile:      "external data file name",
}

func extensionName(t qcow2.ExtensionType) string {
	if n, ok := extensionNames[t]; ok {
		return n
	}
	return "unknown"
}
