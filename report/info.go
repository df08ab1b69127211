package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// Info is what `qcheck info` shows of an image.
type Info struct {
	Name       string // as the user gave it
	FileSize   uint64 // bytes
	Header     qcow2.Header
	Geometry   qcow2.Geometry // usable only when GeometryOK
	GeometryOK bool
	Extensions []qcow2.Extension
	// BackingFile is the backing file's name as in the image, "" for none.
	BackingFile string

	Snapshots []check.SnapshotInfo
	Bitmaps   []check.BitmapInfo
	QEMUOpen  check.QEMUOpen
	// Live tells that a running VM has the image open.
	Live bool
}

// NewInfo collects what there is to show of an image that was opened and looked
// at. It reads nothing.
func NewInfo(name string, img *qcow2.Image, res *check.Result) *Info {
	backing, _ := img.BackingFileName()
	return &Info{
		Name: name, FileSize: uint64(max(img.Size(), 0)), Header: img.Header, Geometry: img.Geometry,
		GeometryOK: img.GeometryOK, Extensions: img.Extensions, BackingFile: string(backing),
		Snapshots: res.Snapshots, Bitmaps: res.Bitmaps, QEMUOpen: res.QEMUOpen, Live: res.Provisional,
	}
}

// extension gives the data of the last extension of a type, as QEMU does.
func (i *Info) extension(typ qcow2.ExtensionType) ([]byte, bool) {
	for n := len(i.Extensions) - 1; n >= 0; n-- {
		if i.Extensions[n].Type == typ {
			return i.Extensions[n].Data, true
		}
	}
	return nil, false
}

func (i *Info) features(typ qcow2.FeatureType) []feature {
	data, _ := i.extension(qcow2.ExtFeatureNames)
	f := map[qcow2.FeatureType]qcow2.Features{
		qcow2.FeatureIncompatible: i.Header.IncompatibleFeatures,
		qcow2.FeatureCompatible:   i.Header.CompatibleFeatures,
		qcow2.FeatureAutoclear:    i.Header.AutoclearFeatures,
	}[typ]
	return features(typ, f, qcow2.DecodeFeatureNames(data))
}

// text gives a string extension, ok false when the image has none.
func (i *Info) text(typ qcow2.ExtensionType) (string, bool) {
	data, ok := i.extension(typ)
	return string(data), ok
}

func (i *Info) compat() string {
	switch i.Header.Version {
	case 2:
		return "0.10"
	case 3:
		return "1.1"
	}
	return "unknown"
}

func compression(t qcow2.CompressionType) string {
	switch t {
	case qcow2.CompressionZlib:
		return "zlib"
	case qcow2.CompressionZstd:
		return "zstd"
	}
	return fmt.Sprintf("unknown (%d)", uint8(t))
}

func encryption(m qcow2.CryptMethod) string {
	switch m {
	case qcow2.CryptNone:
		return "none"
	case qcow2.CryptAES:
		return "aes"
	case qcow2.CryptLUKS:
		return "luks"
	}
	return fmt.Sprintf("unknown (%d)", uint32(m))
}

// jsonInfo starts with the keys of `qemu-img info --output=json`.
type jsonInfo struct {
	VirtualSize      uint64         `json:"virtual-size"`
	Filename         string         `json:"filename"`
	ClusterSize      uint64         `json:"cluster-size"`
	Format           string         `json:"format"`
	FileSize         uint64         `json:"file-size"`
	DirtyFlag        bool           `json:"dirty-flag"`
	Encrypted        bool           `json:"encrypted"`
	BackingFile      string         `json:"backing-filename,omitempty"`
	BackingFormat    string         `json:"backing-filename-format,omitempty"`
	Snapshots        []jsonSnapshot `json:"snapshots"`
	SnapshotsOmitted int            `json:"snapshots-omitted,omitempty"`
	Specific         jsonSpecific   `json:"format-specific"`

	Header            jsonHeader           `json:"header"`
	Features          map[string][]feature `json:"features"`
	Extensions        []jsonExtension      `json:"extensions"`
	ExtensionsOmitted int                  `json:"extensions-omitted,omitempty"`
	QEMUOpen          *jsonOpen            `json:"qemu-open,omitempty"`
}

type jsonSpecific struct {
	Type string       `json:"type"`
	Data jsonSpecData `json:"data"`
}

type jsonSpecData struct {
	Compat         string       `json:"compat"`
	Compression    string       `json:"compression-type"`
	LazyRefcounts  bool         `json:"lazy-refcounts"`
	RefcountBits   uint64       `json:"refcount-bits"`
	Corrupt        bool         `json:"corrupt"`
	ExtendedL2     bool         `json:"extended-l2"`
	DataFile       string       `json:"data-file,omitempty"`
	DataFileRaw    *bool        `json:"data-file-raw,omitempty"`
	Encrypt        *jsonEncrypt `json:"encrypt,omitempty"`
	Bitmaps        []jsonBitmap `json:"bitmaps"`
	BitmapsOmitted int          `json:"bitmaps-omitted,omitempty"`
}

type jsonEncrypt struct {
	Format string `json:"format"`
}

// jsonHeader is the fields of the header that stand nowhere else.
type jsonHeader struct {
	Version               uint32 `json:"version"`
	HeaderLength          uint32 `json:"header-length"`
	ClusterBits           uint32 `json:"cluster-bits"`
	L1Size                uint32 `json:"l1-size"`
	L1TableOffset         uint64 `json:"l1-table-offset"`
	RefcountTableOffset   uint64 `json:"refcount-table-offset"`
	RefcountTableClusters uint32 `json:"refcount-table-clusters"`
	RefcountOrder         uint32 `json:"refcount-order"`
	NbSnapshots           uint32 `json:"nb-snapshots"`
	SnapshotsOffset       uint64 `json:"snapshots-offset"`
	CryptMethod           uint32 `json:"crypt-method"`
}

type jsonExtension struct {
	Type   uint32 `json:"type"`
	Name   string `json:"name"`
	Offset uint64 `json:"offset"`
	Length uint32 `json:"length"`
}

// JSON writes the information as one object.
func (i *Info) JSON(w io.Writer) error {
	h := &i.Header
	name, _ := raw(i.Name)
	backing, _ := raw(i.BackingFile)
	format, _ := i.text(qcow2.ExtBackingFormat)
	format, _ = raw(format)
	j := jsonInfo{
		VirtualSize: h.Size, Filename: name, Format: "qcow2", FileSize: i.FileSize,
		DirtyFlag: h.IncompatibleFeatures.Has(qcow2.IncompatDirty), Encrypted: h.CryptMethod != qcow2.CryptNone,
		BackingFile: backing, BackingFormat: format,
		Specific: jsonSpecific{Type: "qcow2", Data: jsonSpecData{
			Compat: i.compat(), Compression: compression(h.CompressionType),
			LazyRefcounts: h.CompatibleFeatures.Has(qcow2.CompatLazyRefcounts),
			Corrupt:       h.IncompatibleFeatures.Has(qcow2.IncompatCorrupt),
			ExtendedL2:    h.ExtendedL2(),
		}},
		Header: jsonHeader{
			Version: h.Version, HeaderLength: h.HeaderLength, ClusterBits: h.ClusterBits, L1Size: h.L1Size,
			L1TableOffset: uint64(h.L1TableOffset), RefcountTableOffset: uint64(h.RefcountTableOffset),
			RefcountTableClusters: h.RefcountTableClusters, RefcountOrder: h.RefcountOrder,
			NbSnapshots: h.NbSnapshots, SnapshotsOffset: uint64(h.SnapshotsOffset), CryptMethod: uint32(h.CryptMethod),
		},
		Features: map[string][]feature{
			"incompatible": i.features(qcow2.FeatureIncompatible),
			"compatible":   i.features(qcow2.FeatureCompatible),
			"autoclear":    i.features(qcow2.FeatureAutoclear),
		},
		Extensions: []jsonExtension{}, QEMUOpen: toOpen(&i.QEMUOpen),
	}
	j.Snapshots, j.SnapshotsOmitted = toSnapshots(i.Snapshots)
	j.Specific.Data.Bitmaps, j.Specific.Data.BitmapsOmitted = toBitmaps(i.Bitmaps, i.Live)
	if i.GeometryOK {
		j.ClusterSize = i.Geometry.ClusterSize()
	}
	if h.RefcountOrderOK() {
		j.Specific.Data.RefcountBits = 1 << h.RefcountOrder
	}
	if h.HasDataFile() {
		file, _ := i.text(qcow2.ExtDataFile)
		j.Specific.Data.DataFile, _ = raw(file)
		isRaw := h.AutoclearFeatures.Has(qcow2.AutoclearRawData)
		j.Specific.Data.DataFileRaw = &isRaw
	}
	if j.Encrypted {
		j.Specific.Data.Encrypt = &jsonEncrypt{Format: encryption(h.CryptMethod)}
	}
	for n, x := range i.Extensions {
		if n == maxEntries {
			j.ExtensionsOmitted = len(i.Extensions) - n
			break
		}
		j.Extensions = append(j.Extensions, jsonExtension{Type: uint32(x.Type), Name: extensionName(x.Type),
			Offset: uint64(x.Offset), Length: x.Length})
	}
	return writeJSON(w, j)
}

// Human writes the information for people.
func (i *Info) Human(w io.Writer, opts Options) error {
	h := &i.Header
	p := &printer{w: w, width: opts.Width, style: newStyle(opts.Color)}
	f := &fields{printer: p, width: 16}
	f.add("image", printable(i.Name))
	f.addf("format", "qcow2, version %d (compat %s)", h.Version, i.compat())
	f.addf("virtual size", "%s", exactSize(h.Size))
	f.addf("file size", "%s", exactSize(i.FileSize))
	if i.GeometryOK {
		f.add("cluster size", size(i.Geometry.ClusterSize()))
	} else {
		f.addf("cluster size", "not usable (cluster_bits is %d)", h.ClusterBits)
	}
	f.addf("L1 table", "%s at %v", plural(uint64(h.L1Size), "entry", "entries"), h.L1TableOffset)
	f.addf("refcount table", "%s at %v", plural(uint64(h.RefcountTableClusters), "cluster", "clusters"), h.RefcountTableOffset)
	if h.RefcountOrderOK() {
		f.add("refcounts", plural(1<<h.RefcountOrder, "bit", "bits")+" wide")
	} else {
		f.addf("refcounts", "not usable (refcount_order is %d)", h.RefcountOrder)
	}
	f.add("compression", compression(h.CompressionType))
	f.add("encryption", i.encryptionText())
	if i.BackingFile != "" {
		text := check.Escape(i.BackingFile)
		if format, ok := i.text(qcow2.ExtBackingFormat); ok {
			text += fmt.Sprintf(" (format %s)", check.Escape(format))
		} else {
			text += " (no format recorded)"
		}
		f.add("backing file", text)
	}
	if h.HasDataFile() {
		file, ok := i.text(qcow2.ExtDataFile)
		text := check.Escape(file)
		if !ok {
			text = "no name recorded"
		}
		if h.AutoclearFeatures.Has(qcow2.AutoclearRawData) {
			text += " (a raw image by itself)"
		}
		f.add("data file", text)
	}
	for _, t := range []struct {
		name string
		typ  qcow2.FeatureType
	}{{"incompatible", qcow2.FeatureIncompatible}, {"compatible", qcow2.FeatureCompatible}, {"autoclear", qcow2.FeatureAutoclear}} {
		var names []string
		for _, x := range i.features(t.typ) {
			if !x.Known {
				x.Name += " (unknown)"
			}
			names = append(names, x.Name)
		}
		if len(names) > 0 {
			f.add(t.name, strings.Join(names, ", "))
		}
	}
	var exts []string
	for n, x := range i.Extensions {
		if n == listed {
			exts = append(exts, fmt.Sprintf("and %d more", len(i.Extensions)-n))
			break
		}
		exts = append(exts, fmt.Sprintf("%s (0x%08x, %s at %v)", extensionName(x.Type), uint32(x.Type),
			plural(uint64(x.Length), "byte", "bytes"), x.DataOffset()))
	}
	if len(exts) > 0 {
		f.add("extensions", strings.Join(exts, ", "))
	}
	switch {
	case openText(&i.QEMUOpen) != "":
		f.add("QEMU", openText(&i.QEMUOpen)+reasons(i.QEMUOpen.Reasons))
	case i.QEMUOpen.ReadOnly != "":
		f.add("QEMU", openWords[check.OpenOK])
	}
	i.tables(p)
	return p.err
}

func (i *Info) tables(p *printer) {
	if len(i.Snapshots) > 0 {
		p.line("")
		rows := [][]string{{"SNAPSHOT", "NAME", "TAKEN (UTC)", "DISK SIZE", "VM STATE"}}
		for _, s := range i.Snapshots[:min(len(i.Snapshots), maxEntries)] {
			rows = append(rows, []string{check.Excerpt(s.ID), check.Excerpt(s.Name),
				time.Unix(int64(s.DateSec), 0).UTC().Format(time.DateTime), size(s.DiskSize), size(s.VMStateSize)})
		}
		p.table(rows)
		p.leftOut(len(i.Snapshots)-maxEntries, "snapshots")
	}
	if len(i.Bitmaps) > 0 {
		p.line("")
		p.bitmaps(i.Bitmaps, i.Live)
	}
}

func (i *Info) encryptionText() string {
	text := encryption(i.Header.CryptMethod)
	if data, ok := i.extension(qcow2.ExtCrypto); ok && i.Header.CryptMethod == qcow2.CryptLUKS {
		c := qcow2.DecodeCryptoExtension(data)
		text += fmt.Sprintf(" (header of %s at %v)", plural(c.Length, "byte", "bytes"), c.Offset)
	}
	return text
}

func reasons(rs []string) string {
	switch len(rs) {
	case 0:
		return ""
	case 1:
		return ": " + soleReason(rs)
	}
	return ": " + printable(strings.Join(firstTexts(rs, listed), "; "))
}

func exactSize(n uint64) string {
	if n < 1024 {
		return size(n)
	}
	return fmt.Sprintf("%s (%d bytes)", size(n), n)
}

// fields writes a list of names and values in two columns.
type fields struct {
	*printer
	width int // of the names
}

func (f *fields) add(name, value string) {
	head := f.bold.Sprint(name+":") + strings.Repeat(" ", max(1, f.width-len(name)-1))
	f.wrapped(head, f.width, value, f.width)
}

func (f *fields) addf(name, format string, args ...any) { f.add(name, fmt.Sprintf(format, args...)) }
