package corpus

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// fileCases are faults of encryption headers and of what the image says of other
// files, and trouble that is not the image's.
func fileCases() []Case { return inSizes(fileCasesIn, 16, 9, 21) }

func fileCasesIn(bits uint32) []Case {
	base := base(bits)
	luks := Spec{ClusterBits: bits, Size: 128 << bits, Crypt: qcow2.CryptLUKS, Ops: touches(bits)}
	pointer := ExtensionData(qcow2.ExtCrypto, 0, 8)
	length := ExtensionData(qcow2.ExtCrypto, 8, 8)
	free := SetRefcount(CryptoHeader(), 0)
	data := func(name string) Spec {
		return Spec{Size: 8 * mib, DataFile: &DataFile{Name: name}, Ops: writes(Spec{Size: 8 * mib})}
	}
	missing := one("data-file/missing", "the data file is not there", data("missing.data"), problem.DataFileMissing, Place{})
	missing.Missing = []string{"missing.data"}
	backed := func(name, format string) Spec {
		return Spec{Size: 8 * mib, Backing: &Backing{Name: name, Format: format, Size: mib}, Ops: []Op{Write{Offset: 2 * mib, Length: 64 * kib}}}
	}
	gone := one("backing/missing", "the backing file was deleted: all that the overlay holds itself is sound", backed("gone.raw", "raw"), problem.BackingUnreadable, BackingName())
	gone.Missing = []string{"gone.raw"}
	noFormat := one("backing/missing-no-format", "the backing file was deleted, and its format was not recorded either", backed("gone-too.raw", ""), problem.BackingUnreadable, BackingName()).
		and(problem.BackingFormatMissing, Place{})
	noFormat.Missing = []string{"gone-too.raw"}
	name := ExtensionOf(qcow2.ExtDataFile)
	unreadable := one("trouble/unreadable-table", "a disk error where an L2 table is", Spec{Size: 2 * gib, Ops: []Op{
		Zero{Length: 64 * kib}}}, problem.Unreadable, L2Table(0))
	unreadable.Unreadable = []Place{L2Table(0)}
	block := one("trouble/unreadable-block", "a disk error where a refcount block is", base, problem.Unreadable, RefcountBlock(0))
	block.Unreadable = []Place{RefcountBlock(0)}
	limit := one("trouble/memory", "less memory allowed than the references take", base, problem.LimitReached, Place{})
	limit.MemoryLimit = 1
	return []Case{
		one("encryption/misaligned", "the encryption header is said to start within a cluster", luks, problem.CryptoHeaderMisplaced, pointer, free, Add(pointer, 1<<(bits-1))).inAllSizes(),
		one("encryption/past-end", "the encryption header is said to lie behind the end of the file", luks, problem.CryptoHeaderMisplaced, pointer, free, Set(pointer, tib)).inAllSizes(),
		one("encryption/overlap", "the encryption header is said to be where the refcount table is", luks, problem.LUKSHeaderDamaged, RefcountTable().At(0, 6), free,
			SetOffset(pointer, RefcountTable(), 0), Set(length, 4096), AddRefcount(RefcountTable(), 1)).and(problem.MetadataOverlap, Place{}),
		one("encryption/magic", "the encryption header has no magic", luks, problem.LUKSHeaderDamaged, CryptoHeader().At(0, 6), Wipe(CryptoHeader().At(0, 6))),
		one("encryption/version", "an encryption header of version 3", luks, problem.LUKSHeaderDamaged, CryptoHeader().At(6, 2), Set(CryptoHeader().At(6, 2), 3)),
		one("encryption/payload", "the key's material is said to lie behind the header's end", luks, problem.LUKSHeaderDamaged, Place{},
			Set(CryptoHeader().At(luksSlotsAt+40, 4), 1<<24)),
		one("encryption/not-encrypted", "one bit of crypt_method says that the data is encrypted, and it is not", base, problem.NotEncrypted, HeaderField(qcow2.FieldCryptMethod),
			Set(HeaderField(qcow2.FieldCryptMethod), 1)).inAllSizes(),
		one("encryption/not-encrypted-and-padding", "the same, and padding of the header that is not zero", base, problem.NotEncrypted, HeaderField(qcow2.FieldCryptMethod),
			Set(HeaderField(qcow2.FieldCryptMethod), 1), Set(Bytes(106, 1), 1)).and(problem.HeaderPaddingSet, Place{}),
		missing,
		one("file/cut-short", "the end of the file is missing, and the data of three clusters with it", base, problem.FileTruncated, Place{}, Truncate(Data(5<<bits), 0)).
			and(problem.L2PastEnd, L2Entry(5<<bits)).and(problem.L2PastEnd, L2Entry(32<<bits)).inAllSizes(),
		one("file/cut-in-table", "the file ends within its only L2 table", base, problem.FileTruncated, Place{}, Truncate(L2Table(0), 8)).
			and(problem.L1PastEnd, L1Entry(0)).and(problem.L2PastEnd, L2Entry(0)).inAllSizes(),
		one("data-file/unnamed", "a data file whose name is not recorded",
			Spec{Size: 8 * mib, DataFile: &DataFile{Name: ""}}, problem.DataFileUnnamed, Place{}),
		one("backing/no-format", "the backing file's format is not recorded, so that its content decides it: unsafe",
			Spec{Size: 8 * mib, Backing: &Backing{Name: "no-format.raw", Size: mib}}, problem.BackingFormatMissing, Place{}),
		one("data-file/name-nul", "the name of the data file begins with a NUL", data("nul.data"), problem.DataFileUnnamed, name.At(8, 1), Wipe(name.At(8, 1))),
		one("data-file/name-type", "one bit of the type of the extension that names the data file is wrong, so that nobody knows it", data("type.data"),
			problem.DataFileUnnamed, name.At(0, 4), Set(name.At(0, 4), uint64(qcow2.ExtDataFile)^1<<20)).and(problem.ExtensionUnknown, Place{}),
		one("backing/format-unknown", "the recorded format of the backing file is none that QEMU knows", backed("unknown.raw", "rax"),
			problem.BackingFormatWrong, ExtensionOf(qcow2.ExtBackingFormat)),
		one("backing/format-wrong", "the backing file is recorded as qcow2, and is raw", backed("wrong.raw", "qcow2"), problem.BackingFormatWrong, ExtensionOf(qcow2.ExtBackingFormat)),
		one("backing/format-wrong-and-padding", "the same, and padding of the header that is not zero", backed("wrong-too.raw", "qcow2"), problem.BackingFormatWrong,
			ExtensionOf(qcow2.ExtBackingFormat), Set(Bytes(106, 1), 1)).and(problem.HeaderPaddingSet, Place{}),
		one("backing/format-raw", "the backing file is recorded as raw, and is a qcow2 image: the guest sees its tables",
			Spec{Size: 8 * mib, Backing: &Backing{Name: "tables.qcow2", Format: "raw", Image: &Spec{Size: 8 * mib}}}, problem.BackingFormatWrong, ExtensionOf(qcow2.ExtBackingFormat)).mild(problem.Warning),
		gone, noFormat, unreadable, block, limit,
	}
}
