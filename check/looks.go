package check

import (
	"bytes"
	"io"
)

// lookalike is how a format is known: by bytes at an offset from the start of the file, or
// from its end where that is negative.
type lookalike struct {
	at     int64
	magic  string
	name   string // for a program
	say    string // for people, behind "it looks like"
	advice string // what to do with such a file; may be empty
}

// lookalikes are the formats that people name by mistake, those that are surer first.
var lookalikes = []lookalike{
	{0, "QCHKUNDO", "qcheck-undo", "an undo journal of qcheck", "`qcheck undo IMAGE` follows it"},
	{0, "\x1f\x8b", "gzip", "a gzip file", "decompress it first"},
	{0, "\x28\xb5\x2f\xfd", "zstd", "a zstd file", "decompress it first"},
	{0, "\xfd7zXZ\x00", "xz", "an xz file", "decompress it first"},
	{0, "BZh", "bzip2", "a bzip2 file", "decompress it first"},
	{0, "\x04\x22\x4d\x18", "lz4", "an lz4 file", "decompress it first"},
	{0, "PK\x03\x04", "zip", "a zip archive", "unpack it first"},
	{0, "7z\xbc\xaf\x27\x1c", "7z", "a 7z archive", "unpack it first"},
	{257, "ustar", "tar", "a tar archive (an OVA is one)", "unpack it first"},
	{0, "KDMV", "vmdk", "a VMDK image", convertAdvice},
	{0, "COWD", "vmdk", "a VMDK image", convertAdvice},
	{0, "# Disk DescriptorFile", "vmdk", "the description of a VMDK image", convertAdvice},
	{0, "vhdxfile", "vhdx", "a VHDX image", convertAdvice},
	{0, "conectix", "vpc", "a VHD image", convertAdvice},
	{-512, "conectix", "vpc", "a VHD image", convertAdvice},
	{0x40, "\x7f\x10\xda\xbe", "vdi", "a VDI image", convertAdvice},
	{0, "QED\x00", "qed", "a QED image", convertAdvice},
	{0, "WithoutFreeSpace", "parallels", "a Parallels image", convertAdvice},
	{0, "WithouFreSpacExt", "parallels", "a Parallels image", convertAdvice},
	{0, "LUKS\xba\xbe", "luks", "a LUKS volume", ""},
	{0x8001, "CD001", "iso9660", "an ISO 9660 image (a CD or DVD)", ""},
	{512, "EFI PART", "raw", "a raw disk with a GPT", rawAdvice},
	{4096, "EFI PART", "raw", "a raw disk with a GPT", rawAdvice},
	{1080, "\x53\xef", "raw", "a raw disk with ext2, ext3 or ext4", rawAdvice},
	{0, "XFSB", "raw", "a raw disk with XFS", rawAdvice},
	{0x10040, "_BHRfS_M", "raw", "a raw disk with btrfs", rawAdvice},
	{3, "NTFS    ", "raw", "a raw disk with NTFS", rawAdvice},
	{510, "\x55\xaa", "raw", "a raw disk with a boot sector", rawAdvice},
}

const (
	convertAdvice = "`qemu-img convert -O qcow2` makes a qcow2 image of it"
	rawAdvice     = "a raw disk has no structure that could be checked"
)

// Lookalike is what a file that is no qcow2 image seems to be.
type Lookalike struct {
	Format string // "gzip", "vmdk", "raw", …
	Say    string // "a gzip file"
	Advice string // what to do with such a file; may be empty
}

// LooksLike tells what a file that is no qcow2 image seems to be; ok is false where nothing is
// known of it. It reads a few sectors.
func LooksLike(r io.ReaderAt, size int64) (l Lookalike, ok bool) {
	for _, k := range lookalikes {
		at := k.at
		if at < 0 {
			at += size
		}
		b := make([]byte, len(k.magic))
		if at < 0 || at+int64(len(b)) > size {
			continue
		}
		if n, _ := r.ReadAt(b, at); n == len(b) && bytes.Equal(b, []byte(k.magic)) {
			return Lookalike{k.name, k.say, k.advice}, true
		}
	}
	return Lookalike{}, false
}
