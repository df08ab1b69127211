package corpus

import (
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// features is a choice of what an image can have.
type features struct {
	version      uint32
	clusterBits  uint32
	refcountBits uint
	compressed   string // with zlib or zstd; empty: nothing is
	subclusters  bool
	lazy         bool
	data         string // where guest data is: "data-file", "data-file-raw"; empty: in the image
	backing      bool
	snapshots    bool
	bitmaps      bool
	crypt        string // "luks" or "aes"; empty: none
}

// featureMatrix has every two features that can go together in at least one row,
// with as few rows as that was found to take. A test tells which cannot.
var featureMatrix = []features{
	{3, 9, 64, "", false, true, "", true, false, false, "luks"},
	{3, 16, 16, "zstd", true, false, "", false, true, true, ""},
	{3, 21, 1, "", false, false, "data-file", false, false, true, "aes"},
	{2, 21, 16, "zlib", false, false, "", true, true, false, ""},
	{3, 16, 1, "", true, true, "data-file-raw", false, false, false, ""},
	{3, 21, 16, "", true, true, "data-file", true, false, true, "luks"},
	{3, 9, 64, "zlib", false, false, "", false, true, true, ""},
	{3, 16, 64, "", true, true, "", true, true, false, "aes"},
	{3, 9, 1, "zstd", false, true, "", true, false, false, ""},
	{2, 16, 16, "", false, false, "", false, false, false, "luks"},
	{3, 9, 16, "", false, false, "data-file-raw", false, false, true, ""},
	{3, 16, 1, "zlib", true, true, "", false, false, false, ""},
	{3, 16, 64, "", true, true, "data-file", true, false, false, ""},
	{2, 9, 16, "", false, false, "", true, true, false, "aes"},
	{3, 21, 64, "", false, false, "data-file-raw", false, false, false, ""},
	{3, 9, 1, "", false, false, "data-file", true, false, true, "luks"},
	{3, 21, 64, "zstd", true, true, "", true, false, false, ""},
	{2, 9, 16, "", false, false, "", false, true, false, "luks"},
}

// matrixCases are sound images with several features at once.
func matrixCases() []Case {
	var cases []Case
	for _, f := range featureMatrix {
		cases = append(cases, Case{Name: "healthy/" + f.name(), Story: "features that can go together do", Spec: f.spec()})
	}
	return cases
}

// name tells the features apart: version, cluster size, width of the refcounts, and
// then what the image has.
func (f *features) name() string {
	name := fmt.Sprintf("v%d-%d-%d", f.version, 1<<f.clusterBits, f.refcountBits)
	for _, x := range []struct {
		name string
		has  bool
	}{
		{f.compressed, f.compressed != ""}, {"extended-l2", f.subclusters}, {"lazy", f.lazy}, {f.data, f.data != ""},
		{"backing", f.backing}, {"snapshots", f.snapshots}, {"bitmaps", f.bitmaps}, {f.crypt, f.crypt != ""},
	} {
		if x.has {
			name += "-" + x.name
		}
	}
	return name
}

func (f *features) spec() Spec {
	c := uint64(1) << f.clusterBits
	s := Spec{Version: f.version, ClusterBits: f.clusterBits, Size: 40*c + 512, RefcountBits: f.refcountBits, ExtendedL2: f.subclusters, Lazy: f.lazy}
	if f.data != "" {
		s.DataFile = &DataFile{Name: f.name() + ".data", Raw: f.data == "data-file-raw"}
		if s.DataFile.Raw {
			s.Ops = append(s.Ops, Map{Length: s.Size})
		}
	}
	s.Ops = append(s.Ops, touches(f.clusterBits)...)
	if f.version > 2 {
		s.Ops = append(s.Ops, Zero{Offset: c, Length: c}, Zero{Offset: 10 * c, Length: 2 * c, Keep: true})
	}
	if f.subclusters {
		s.Ops = append(s.Ops, Zero{Offset: 5*c + c/4, Length: c / 32}, Write{Offset: 12*c + 3*c/32, Length: c / 32, Pattern: 0x61})
	}
	switch f.compressed {
	case "zstd":
		s.Compression = qcow2.CompressionZstd
		fallthrough
	case "zlib":
		// Two in one cluster, but for refcounts of one bit.
		n := uint64(2)
		if f.refcountBits == 1 {
			n = 1
		}
		s.Ops = append(s.Ops, Write{Offset: 20 * c, Length: n * c, Pattern: 0x62, Compressed: true})
	}
	if f.backing {
		s.Backing = &Backing{Name: f.name() + ".raw", Format: "raw", Size: 30 * c, Writes: []Write{{Offset: 3 * c, Length: 4 * kib, Pattern: 0x63, Stamp: true}}}
	}
	if f.snapshots {
		s.Ops = append(s.Ops, Snapshot{ID: "1", Name: "first"}, Write{Offset: 5 * c, Length: 512, Pattern: 0x64},
			Snapshot{ID: "2", Name: "second", VMState: 3 * c / 2}, Write{Offset: 20 * c, Length: 512, Pattern: 0x65}, Discard{Offset: 6 * c, Length: c, Full: f.version == 2})
	}
	if f.bitmaps {
		s.Bitmaps = []Bitmap{{Name: "on", GranularityBits: 9, Auto: true, Dirty: []Range{{0, 3 * c}, {40 * c, 512}}}, {Name: "off", Dirty: []Range{{c, c}}}}
	}
	switch f.crypt {
	case "luks":
		s.Crypt = qcow2.CryptLUKS
	case "aes":
		s.Crypt = qcow2.CryptAES
	}
	return s
}
