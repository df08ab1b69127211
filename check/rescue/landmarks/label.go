package landmarks

import "hash/crc32"

// partition is a range of a disk that its label names.
type partition struct{ start, length uint64 } // bytes

// label is what cuts a disk into partitions.
type label struct {
	kind      string // "GPT", "MBR"
	id        spaceID
	piece, at uint64
	backup    bool
	size      uint64 // of the disk in bytes; 0 where it does not say
	own       uint64 // where it says that it lies
	parts     []partition
	// Where the entries of a GPT lie, and how they are verified.
	entries, entryBytes, sector uint64
	entrySum                    uint32
}

func (l *label) rightEntries(b []byte) bool { return crc32.ChecksumIEEE(b) == l.entrySum }

const (
	gptHead     = 92
	gptEntry    = 128
	maxParts    = 128
	mbrGPT      = 0xee
	swapMagic   = 0x5741505350414345 // "SWAPSPAC"
	maxDiskSize = 1 << 60
)

// gpt looks at a GPT header; sectors may have 512 or 4096 bytes.
func (f *finder) gpt(o int, b []byte) {
	if string(b[:8]) != "EFI PART" || le.Uint32(b[12:]) != gptHead {
		return
	}
	sum := crc32.Update(0, crc32.IEEETable, b[:16])
	sum = crc32.Update(sum, crc32.IEEETable, []byte{0, 0, 0, 0})
	if crc32.Update(sum, crc32.IEEETable, b[20:gptHead]) != le.Uint32(b[16:]) {
		return
	}
	own, other, entries := le.Uint64(b[24:]), le.Uint64(b[32:]), le.Uint64(b[72:])
	n, size := uint64(le.Uint32(b[80:])), uint64(le.Uint32(b[84:]))
	ss := uint64(sector)
	if n > maxParts || size != gptEntry {
		return
	}
	if own == 1 && (f.at+uint64(o))%4096 == 0 || own != 1 && entries == own-n*size/4096 {
		ss = 4096
	}
	if own >= maxDiskSize/ss || other >= maxDiskSize/ss || other == own {
		return
	}
	l := &label{kind: "GPT", id: id16("gpt", b[56:72]), piece: f.piece, at: f.at + uint64(o), backup: own != 1, own: own * ss, size: (max(own, other) + 1) * ss,
		entries: entries * ss, entryBytes: n * size, sector: ss, entrySum: le.Uint32(b[88:])}
	// The entries follow the header, or lie before the backup.
	at := int64(o) + int64(entries*ss) - int64(l.own)
	if at < 0 || at > int64(len(f.data)) || int64(n*size) > int64(len(f.data))-at {
		f.labels = append(f.labels, l)
		return
	}
	table := f.data[at:][:n*size]
	if l.rightEntries(table) {
		l.parts = gptParts(table, ss)
	}
	f.labels = append(f.labels, l)
}

func gptParts(table []byte, ss uint64) (parts []partition) {
	for ; len(table) >= gptEntry; table = table[gptEntry:] {
		first, last := le.Uint64(table[32:]), le.Uint64(table[40:])
		if zero(table[:16]) || first == 0 || last < first || last >= maxDiskSize/ss {
			continue
		}
		parts = append(parts, partition{first * ss, (last - first + 1) * ss})
	}
	return parts
}

// mbr looks at a boot sector where a disk may begin.
func (f *finder) mbr(b []byte) {
	l := &label{kind: "MBR", id: id16("mbr", b[440:444]), piece: f.piece}
	for i := range 4 {
		e := b[446+16*i:]
		start, n := uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
		switch {
		case e[0]&0x7f != 0, e[4] == mbrGPT:
			return
		case e[4] == 0 && n != 0, e[4] != 0 && (start == 0 || n == 0):
			return
		case e[4] != 0:
			l.parts = append(l.parts, partition{start * sector, n * sector})
		}
	}
	if len(l.parts) > 0 {
		f.labels = append(f.labels, l)
	}
}

// lvm looks at the label of a physical volume of LVM2, in its second sector as a rule.
func (f *finder) lvm(o int, b []byte) {
	if string(b[:8]) != "LABELONE" || string(b[24:32]) != "LVM2 001" {
		return
	}
	// A CRC32 with a start value of its own.
	if ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, b[20:sector]) != le.Uint32(b[16:]) {
		return
	}
	at := int(le.Uint32(b[20:]))
	if at < 32 || at+40 > sector {
		return
	}
	f.add(o, foundMark{mark: mark{kind: lvmLabel, address: le.Uint64(b[8:]), count: 1}, id: id16("lvm", b[at:]), size: le.Uint64(b[at+32:])})
}

// luks looks at the headers of LUKS 1 and 2.
func (f *finder) luks(o int, b []byte) {
	switch {
	case string(b[:6]) == "LUKS\xba\xbe" && be.Uint16(b[6:]) == 1:
		f.add(o, foundMark{mark: mark{kind: luksHeader, count: 1}, id: id16("luks", b[168:184])})
	case be.Uint16(b[6:]) != 2:
	case string(b[:6]) == "LUKS\xba\xbe":
		f.add(o, foundMark{mark: mark{kind: luksHeader, count: 1}, id: id16("luks", b[168:184])})
	case string(b[:6]) == "SKUL\xba\xbe" && be.Uint64(b[256:]) <= 4<<20:
		f.add(o, foundMark{mark: mark{kind: luksBackup, address: be.Uint64(b[256:]), count: 1}, id: id16("luks", b[168:184])})
	}
}

func (f *finder) swap(o int, b []byte) {
	if string(b[block-10:block]) != "SWAPSPACE2" || le.Uint32(b[1024:]) != 1 || zero(b[1036:1052]) {
		return
	}
	f.add(o, foundMark{mark: mark{kind: swapHeader, count: 1}, id: id16("swap", b[1036:1052]), size: (uint64(le.Uint32(b[1028:])) + 1) * block})
}
