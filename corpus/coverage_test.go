package corpus_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// The sizes of clusters, as powers of two, in which a code must have cases.
var (
	allSizes   = []uint32{9, 16, 21}
	anySize    = []uint32{}           // one is enough
	unaligned  = []uint32{10, 16, 21} // in clusters of 512 bytes every offset that an entry has bits for is aligned
	extended   = []uint32{14, 16, 21} // extended L2 entries take clusters of 16 KiB
	largeDisks = []uint32{16, 21}     // no disk in clusters of 512 bytes has bitmaps of so many bits
)

// sizesOf tells the codes that need not have cases in clusters of all sizes, with the
// reason in words; all others must.
var sizesOf = map[problem.Code]struct {
	bits []uint32
	why  string
}{
	problem.NotQcow2:                     {anySize, "bytes at the start of the file"},
	problem.VersionUnknown:               {anySize, "a field of the header that nothing depends on"},
	problem.ClusterSizeInvalid:           {anySize, "the size of the clusters itself"},
	problem.FeatureUnknown:               {anySize, "a bit of the header"},
	problem.MarkedDirty:                  {anySize, "a bit of the header"},
	problem.MarkedCorrupt:                {anySize, "a bit of the header"},
	problem.AutoclearUnknown:             {anySize, "a bit of the header"},
	problem.RefcountWidthInvalid:         {anySize, "a field of the header that nothing depends on"},
	problem.CryptMethodUnknown:           {anySize, "a field of the header that nothing depends on"},
	problem.CompressionTypeContradiction: {anySize, "a field and a bit of the header"},
	problem.HeaderPaddingSet:             {anySize, "bytes of the header"},
	problem.RawExternalMisused:           {anySize, "bits of the header"},
	problem.HeaderCut:                    {anySize, "the file ends before the clusters matter"},
	problem.QEMUCrash:                    {largeDisks, "bitmaps of so many bits"},
	problem.ExtensionsIgnored:            {anySize, "within the header"},
	problem.ExtensionDuplicate:           {anySize, "types of extensions"},
	problem.ExtensionLength:              {anySize, "lengths of extensions that are the same everywhere"},
	problem.CryptoPointerContradiction:   {anySize, "types of extensions and a field of the header"},
	problem.ExtensionUnused:              {anySize, "types of extensions and a bit of the header"},
	problem.FeatureNameImpossible:        {anySize, "fields of an extension"},
	problem.ExtensionUnknown:             {anySize, "types of extensions"},
	problem.L1Unaligned:                  {unaligned, "offsets between clusters"},
	problem.L2Unaligned:                  {unaligned, "offsets between clusters"},
	problem.SubclusterConflict:           {extended, "extended L2 entries"},
	problem.SubclusterUnplaced:           {extended, "extended L2 entries"},
	problem.RefcountEntryUnaligned:       {unaligned, "offsets between clusters"},
	problem.SnapshotIDAmbiguous:          {anySize, "bytes of entries"},
	problem.SnapshotWithDataFile:         {anySize, "a bit of the header"},
	problem.BitmapExtensionMissing:       {anySize, "bits of the header"},
	problem.BitmapsStale:                 {anySize, "bits of the header"},
	problem.BitmapExtensionReserved:      {anySize, "a field of an extension"},
	problem.BitmapsInVersion2:            {anySize, "a field of the header"},
	problem.BitmapFlagsReserved:          {anySize, "bits of an entry"},
	problem.BitmapTypeUnknown:            {anySize, "a field of an entry"},
	problem.BitmapGranularity:            {anySize, "a field of an entry, with limits of its own"},
	problem.BitmapNameDuplicate:          {anySize, "bytes of entries"},
	problem.BitmapExtraData:              {anySize, "bytes of entries"},
	problem.BitmapEntryPadding:           {anySize, "bytes of entries"},
	problem.BitmapInUse:                  {anySize, "a bit of an entry"},
	problem.BitmapAutoOnOther:            {anySize, "fields of an entry"},
	problem.BitmapNameDangerous:          {anySize, "bytes of entries"},
	problem.BitmapEntryUnaligned:         {unaligned, "offsets between clusters"},
	problem.LUKSHeaderDamaged:            {anySize, "fields of the encryption header, which have units of their own"},
	problem.DataFileMissing:              {anySize, "another file"},
	problem.DataFileUnnamed:              {anySize, "types of extensions"},
	problem.BackingUnreadable:            {anySize, "another file"},
	problem.BackingFormatMissing:         {anySize, "types of extensions"},
	problem.BackingFormatWrong:           {anySize, "another file"},
	problem.NotEncrypted:                 {anySize, "a field of the header"},
	problem.ClusterNotStored:             {anySize, "holes of whole clusters in a file that is stored in pages"},
	problem.TableWiped:                   {[]uint32{9, 16}, "more than one L2 table, of which one maps half a TiB in the largest clusters"},
	problem.Unreadable:                   {anySize, "no fault of the image"},
	problem.LimitReached:                 {anySize, "no fault of the image"},
}

// neverMet are codes that belong to checks of their own, which no case asks for.
var neverMet = map[problem.Code]string{
	problem.DataFileMisplaced: "a matter of the folder that QEMU is started in",
	problem.BackingLength:     "found only where the files below are checked as well",
	problem.BackingInUse:      "a matter of what other programs do",
	problem.BackingUnsound:    "found only where the files below are checked as well",
	problem.QEMURefuses:       "found only where no other finding says why QEMU refuses",
}

// alwaysAlone are codes that no other can come with.
var alwaysAlone = map[problem.Code]string{
	problem.NotQcow2:       "it is not an image of this format",
	problem.VersionUnknown: "nothing else is known of such a version",
	problem.LimitReached:   "what the references say is not known",
}

// TestCodesInAllClusterSizes tests that every code of the catalogue has a case that
// gives it alone and one that gives it with others, in the smallest, the usual and the
// largest clusters wherever their size can matter.
func TestCodesInAllClusterSizes(t *testing.T) {
	t.Parallel()
	type met struct{ alone, together map[uint32]bool }
	codes := make(map[problem.Code]met)
	for _, r := range problem.Catalog() {
		codes[r.Code] = met{make(map[uint32]bool), make(map[uint32]bool)}
	}
	for _, c := range corpus.Cases() {
		bits := clusterBits(&c)
		all, grave := make(map[problem.Code]bool), make(map[problem.Code]bool)
		for _, w := range c.Want {
			all[w.Code] = true
			if w.ExpectedSeverity() != problem.Note && (w.Code != problem.BitmapInUse || len(c.Want) == 1) {
				grave[w.Code] = true
			}
		}
		for code := range all {
			if !c.Any && (len(all) == 1 || len(grave) == 1 && grave[code]) {
				codes[code].alone[bits] = true
			}
			if len(all) > 1 {
				codes[code].together[bits] = true
			}
		}
	}
	in := func(sizes map[uint32]bool, wanted []uint32) bool {
		return len(sizes) > 0 && !slices.ContainsFunc(wanted, func(b uint32) bool { return !sizes[b] })
	}
	for _, r := range problem.Catalog() {
		m := codes[r.Code]
		if why, ok := neverMet[r.Code]; ok {
			assert.Empty(t, m.alone, "%s: %s; but a case does", r.Code, why)
			assert.Empty(t, m.together, "%s: %s; but a case does", r.Code, why)
			continue
		}
		wanted := allSizes
		if x, ok := sizesOf[r.Code]; ok {
			wanted = x.bits
		}
		if _, ok := notAlone[r.Code]; !ok {
			assert.True(t, in(m.alone, wanted), "%s alone: there are cases for clusters of 1<<%v bytes, there must be for 1<<%v", r.Code, keys(m.alone), wanted)
		}
		if why, ok := alwaysAlone[r.Code]; ok {
			assert.Empty(t, m.together, "%s: %s; but a case has another code", r.Code, why)
			continue
		}
		assert.True(t, in(m.together, wanted), "%s with others: there are cases for clusters of 1<<%v bytes, there must be for 1<<%v", r.Code, keys(m.together), wanted)
	}
}

func keys(m map[uint32]bool) (k []uint32) {
	for b := range m {
		k = append(k, b)
	}
	slices.Sort(k)
	return k
}

func clusterBits(c *corpus.Case) uint32 {
	if c.Spec.ClusterBits == 0 {
		return 16
	}
	return c.Spec.ClusterBits
}

// dimensions are what healthy images can have, each with its choices.
var dimensions = [][]string{
	{"version 2", "version 3"},
	{"512 B", "64 KiB", "2 MiB"},
	{"refcounts of 1 bit", "refcounts of 16 bits", "refcounts of 64 bits"},
	{"not compressed", "zlib", "zstd"},
	{"plain entries", "extended entries"},
	{"eager refcounts", "lazy refcounts"},
	{"data inside", "data file", "raw data file"},
	{"no backing file", "backing file"},
	{"no snapshots", "snapshots"},
	{"no bitmaps", "bitmaps"},
	{"not encrypted", "LUKS", "AES"},
}

// choices tells what a case has of each dimension; nothing where its choice is not
// listed, such as clusters of 4 KiB.
func choices(c *corpus.Case) []string {
	s := &c.Spec
	compressed := s.Compression != 0
	snapshots := false
	for _, op := range s.Ops {
		switch op := op.(type) {
		case corpus.Write:
			compressed = compressed || op.Compressed
		case corpus.Snapshot:
			snapshots = true
		}
	}
	pick := func(d int, choice int) string { return dimensions[d][choice] }
	is := func(d int, yes bool) string {
		if yes {
			return pick(d, 1)
		}
		return pick(d, 0)
	}
	got := []string{is(0, s.Version != 2)}
	if i := slices.Index(allSizes, clusterBits(c)); i >= 0 {
		got = append(got, pick(1, i))
	}
	if i := slices.Index([]uint{1, 16, 64, 0}, s.RefcountBits); i >= 0 {
		got = append(got, pick(2, []int{0, 1, 2, 1}[i]))
	}
	switch {
	case !compressed:
		got = append(got, pick(3, 0))
	default:
		got = append(got, pick(3, 1+int(s.Compression)))
	}
	got = append(got, is(4, s.ExtendedL2), is(5, s.Lazy))
	switch {
	case s.DataFile == nil:
		got = append(got, pick(6, 0))
	case s.DataFile.Raw:
		got = append(got, pick(6, 2))
	default:
		got = append(got, pick(6, 1))
	}
	return append(got, is(7, s.Backing != nil), is(8, snapshots), is(9, len(s.Bitmaps) > 0),
		pick(10, slices.Index([]qcow2.CryptMethod{qcow2.CryptNone, qcow2.CryptLUKS, qcow2.CryptAES}, s.Crypt)))
}

// cannotGoTogether are the choices that exclude each other, with the reason.
var cannotGoTogether = map[string]map[string]string{
	"version 2": {
		"refcounts of 1 bit": "the width is a field of version 3", "refcounts of 64 bits": "the width is a field of version 3",
		"zstd": "a feature bit", "extended entries": "a feature bit", "lazy refcounts": "a feature bit",
		"data file": "a feature bit", "raw data file": "a feature bit", "bitmaps": "a feature bit tells that they are true",
	},
	"512 B":              {"extended entries": "a subcluster is a sector at least, and there are 32 in a cluster"},
	"refcounts of 1 bit": {"snapshots": "what is shared has two references"},
	"zlib": {"data file": "compressed data would not be where the guest has it", "raw data file": "likewise",
		"LUKS": "QEMU writes no such clusters", "AES": "QEMU writes no such clusters"},
	"zstd": {"data file": "compressed data would not be where the guest has it", "raw data file": "likewise",
		"LUKS": "QEMU writes no such clusters", "AES": "QEMU writes no such clusters"},
	"data file": {"snapshots": "the file has each of the guest's clusters once"},
	"raw data file": {"snapshots": "the file has each of the guest's clusters once", "backing file": "the data file is the whole disk",
		"LUKS": "the data file would not be what the guest sees", "AES": "the data file would not be what the guest sees"},
}

// TestFeaturesInPairs tests that every two features that a sound image can have
// together do go together in a case, and that what is said to exclude each other does.
func TestFeaturesInPairs(t *testing.T) {
	t.Parallel()
	met := make(map[[2]string]string)
	for _, c := range corpus.Cases() {
		if !strings.HasPrefix(c.Name, "healthy/") {
			continue
		}
		all := choices(&c)
		for i, a := range all {
			for _, b := range all[i+1:] {
				met[[2]string{a, b}] = c.Name
			}
		}
	}
	pairs := 0
	for i, d := range dimensions {
		for _, e := range dimensions[i+1:] {
			for _, a := range d {
				for _, b := range e {
					name, ok := met[[2]string{a, b}]
					why, never := cannotGoTogether[a][b]
					assert.True(t, ok || never, "no healthy case has %s with %s", a, b)
					assert.False(t, ok && never, "%s and %s: %s; but %s has both", a, b, why, name)
					pairs++
				}
			}
		}
	}
	excluded := 0
	for _, m := range cannotGoTogether {
		excluded += len(m)
	}
	t.Logf("%d pairs, %d of which exclude each other", pairs, excluded)
}
