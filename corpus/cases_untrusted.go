package corpus

import (
	"encoding/binary"
	"math"

	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// untrustedCases are images as a stranger may upload them to have a service read what it
// should not, take the image for something else, or work without end. Many are in order but
// for that. `qcheck --untrusted` refuses each.
func untrustedCases() []Case {
	const (
		c       = 64 * kib
		vhdSize = 48 << 20
	)
	base := base(16)
	field := HeaderField
	refused := func(name, story string, spec Spec, damage ...Damage) Case {
		return Case{Name: "untrusted/" + name, Story: story, Spec: spec, Damage: damage}
	}
	// Paths that no host has: what QEMU says must not depend on where it runs.
	const secret = "/nonexistent/host/secret"
	backing := func(name, format string) Spec {
		return Spec{Size: 8 * mib, Backing: &Backing{Name: name, Format: format, Size: mib}}
	}
	data := func(name string, raw bool) Spec {
		return Spec{Size: 8 * mib, DataFile: &DataFile{Name: name, Raw: raw}, Ops: []Op{Write{Length: c, Pattern: 1}}}
	}
	missing := func(cs Case, code problem.Code) Case {
		name := ""
		if b := cs.Spec.Backing; b != nil {
			name = b.Name
		} else {
			name = cs.Spec.DataFile.Name
		}
		cs.Missing, cs.Want = []string{name}, append(cs.Want, Want{Code: code})
		return cs
	}
	mbr := func(at Place) Damage {
		return change(at, func(_ *Image, b []byte) error {
			b[446+4], b[510], b[511] = 0x83, 0x55, 0xaa
			binary.LittleEndian.PutUint32(b[446+8:], 2048)
			binary.LittleEndian.PutUint32(b[446+12:], 2048)
			return nil
		}, "put a boot sector's partition table into %s", at)
	}
	sector := Bytes(0, 512)
	iso := Put(Bytes(0x8001, 5), []byte("CD001"))
	big := Spec{ClusterBits: 21, Size: 512 * gib, RefcountBits: 64, Ops: []Op{Write{Length: 2 * mib, Pattern: 0x55, Compressed: true}}}
	packed := func(img *Image) (uint64, error) {
		b := make([]byte, 8)
		x, err := img.Find(L2Entry(0))
		if err == nil {
			_, err = img.ReadAt(b, int64(x.Offset))
		}
		return binary.BigEndian.Uint64(b), err
	}
	hugeBitmap := Spec{Size: 2 * pib, Bitmaps: []Bitmap{{Name: "b0", GranularityBits: 9, InUse: true, TableSize: 1}}}
	luks := Spec{Size: 8 * mib, Crypt: qcow2.CryptLUKS}
	cases := []Case{
		missing(refused("backing-file", "the backing file is a file of the host, which the service would hand out with the disk", backing(secret, "raw")), problem.BackingUnreadable),
		missing(refused("backing-file-guessed", "the same, and the format is left to be guessed", backing(secret+".2", "")), problem.BackingUnreadable).
			and(problem.BackingFormatMissing, Place{}),
		missing(refused("data-file", "the external data file is a file of the host (CVE-2024-32498)", data(secret+".3", false)), problem.DataFileMissing),
		missing(refused("data-file-raw", "the same, and the data file is said to be the disk by itself", data(secret+".4", true)), problem.DataFileMissing),
		refused("data-file-unnamed", "an external data file that is named nowhere: the next one to open it names it", data("", false)).
			finds(problem.DataFileUnnamed),
		refused("data-file-named-only", "the external data file is named, and the bit is set later", base, Put(Bytes(112, 16), qcow2.EncodeExtension(qcow2.ExtDataFile, []byte("/etc/pwd")))).
			finds(problem.ExtensionUnused, problem.ExtensionUnknown),
		refused("backing-name-empty", "a backing file's name of no length: one byte makes it one", base, Set(field(qcow2.FieldBackingFileOffset), 512)).
			finds(problem.BackingNameMisplaced).mild(problem.Warning),
		refused("backing-name-in-header", "the backing file's name is said to stand within the header, so that QEMU passes over all extensions (cloud-hypervisor 8261)", base,
			Set(field(qcow2.FieldBackingFileOffset), 8), Set(field(qcow2.FieldBackingFileSize), 0)).finds(problem.BackingNameMisplaced, problem.ExtensionsIgnored).mild(problem.Warning),
		refused("backing-name-outside", "the backing file's name is said to stand behind the first cluster (cloud-hypervisor 8261)", base,
			Set(field(qcow2.FieldBackingFileOffset), c-4), Set(field(qcow2.FieldBackingFileSize), 100)).finds(problem.BackingNameMisplaced),
		refused("backing-name-long", "the backing file's name is longer than any (cloud-hypervisor 8261)", base,
			Set(field(qcow2.FieldBackingFileOffset), 512), Set(field(qcow2.FieldBackingFileSize), math.MaxUint32)).finds(problem.BackingNameMisplaced),
		refused("feature-unknown", "an incompatible feature that nobody knows yet", base, SetBits(field(qcow2.FieldIncompatibleFeatures), 1<<5)).finds(problem.FeatureUnknown),
		refused("feature-top", "the highest of all incompatible features", base, SetBits(field(qcow2.FieldIncompatibleFeatures), 1<<63)).finds(problem.FeatureUnknown),
		refused("autoclear-unknown", "a feature that other programs are to clear", base, SetBits(field(qcow2.FieldAutoclearFeatures), 1<<7)).finds(problem.AutoclearUnknown),
		refused("raw-disk-with-header", "the guest wrote the header of an image over the first sector of its raw disk (CVE-2026-24708)", base, mbr(sector)),
		refused("also-gpt", "an image that is also a disk with a GPT: uploaded as raw, guessed to be qcow2 (CVE-2024-40767)", base, Put(Bytes(512, 8), []byte("EFI PART"))),
		refused("also-cd", "an image that is also that of a CD", base, iso),
		refused("also-vhd", "an image that ends as a VHD does", base, Extend(vhdSize), Put(Bytes(vhdSize-512, 8), []byte("conectix"))),
		refused("also-dmg", "an image that ends as a DMG does", base, Extend(vhdSize), Put(Bytes(vhdSize-512, 4), []byte("koly"))),
		refused("key-forever", "a LUKS header that takes hours to try a password", luks, Set(CryptoHeader().At(luksSlotsAt+4, 4), math.MaxUint32)).slow(),
		refused("bitmap-of-terabytes", "a bitmap in use that QEMU runs out of memory for, or dies of", hugeBitmap).any(problem.QEMUCrash),
		refused("bomb", "12 MiB that unpack to 512 GiB: every cluster of the disk is the same compressed one", big,
			repeat(L2Table(0), packed), SetRefcount(Data(0), 1<<18)).any(),
	}
	return cases
}
