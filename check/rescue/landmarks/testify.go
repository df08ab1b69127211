package landmarks

// Bounds on what one file system is asked.
const (
	maxTold   = 1 << 24 // witnesses
	maxReread = 1 << 17 // blocks
)

// testify has a file system say what is in blocks: its inodes, records and checksums are
// read again where they were seen.
func (v *volume) testify(r *resolver, tell func(witness)) {
	told, reread := 0, 0
	say := func(at uint64, value uint32, sum bool) {
		if at += v.start; at%block == 0 && told < maxTold {
			told++
			tell(witness{at, value, sum})
		}
	}
	for i := range r.marks {
		m := &r.marks[i]
		if m.space != nil && m.space != v.space {
			continue
		}
		if !m.kind.fixed() {
			if reread++; reread > maxReread {
				return
			}
		}
		switch m.kind {
		case extInode:
			if v.ext == nil || v.ext.block != block {
				continue
			}
			if _, ok := v.ext.inodeMark(m.address); ok {
				at := m.at / block * block
				v.ext.files(r.readAgain(m.piece, at, block), say)
			}
		case xfsInode:
			if v.xfs != nil && v.xfs.block == block {
				v.xfs.files(r.readAgain(m.piece, m.at, uint64(m.count)*v.xfs.inodeSize), say)
			}
		case ntfsRecord:
			if v.ntfs != nil && v.ntfs.cluster == block && len(v.recordAddresses(m.address)) > 0 {
				b := r.readAgain(m.piece, m.at, v.ntfs.record)
				v.ntfs.file(b, say)
				if m.address == ntfsLog && len(b) > 0 {
					if rec, ok := fixup(b); ok {
						_, v.log = ntfsData(rec)
					}
				}
			}
		case btrfsBlock:
			if m.count == btrfsSums && v.btrfs != nil {
				v.btrfs.sums(r.readAgain(m.piece, m.at, v.btrfs.node), say)
			}
		}
	}
}

// endOf tells of the last block of a file, where that has a part that is not used.
func endOf(size uint64) (last uint64, used uint32, ok bool) {
	used = uint32(size % block)
	return size / block, used, used > 0 && used <= block-minTail
}

func (l *extLayout) files(b []byte, say func(at uint64, value uint32, sum bool)) {
	for ; len(b) >= extInodeSize; b = b[extInodeSize:] {
		last, used, ok := endOf(uint64(le.Uint32(b[4:])) | uint64(le.Uint32(b[0x6c:]))<<32)
		const extents = 0x80000
		if !ok || !isExtInode(b) || le.Uint16(b)>>12 != 8 || le.Uint32(b[0x20:])&extents == 0 {
			continue
		}
		e := b[0x28 : 0x28+60]
		if le.Uint16(e) != 0xf30a || le.Uint16(e[6:]) != 0 {
			continue
		}
		for i := range min(int(le.Uint16(e[2:])), 4) {
			x := e[12+12*i:]
			first, n := uint64(le.Uint32(x)), uint64(le.Uint16(x[4:]))
			if n <= 1<<15 && last >= first && last-first < n {
				at := uint64(le.Uint16(x[6:]))<<32 | uint64(le.Uint32(x[8:]))
				say((at+last-first)*l.block, used, false)
			}
		}
	}
}

func (l *xfsLayout) files(b []byte, say func(at uint64, value uint32, sum bool)) {
	const core, extents = 176, 2
	for ; uint64(len(b)) >= l.inodeSize && l.inodeSize > core; b = b[l.inodeSize:] {
		last, used, ok := endOf(be.Uint64(b[56:]))
		if !ok || be.Uint16(b[2:])>>12 != 8 || b[5] != extents {
			continue
		}
		fork := b[core:l.inodeSize]
		if n := int(b[82]) * 8; n > 0 && n < len(fork) {
			fork = fork[:n]
		}
		for i := range min(int(be.Uint32(b[76:])), len(fork)/16) {
			hi, lo := be.Uint64(fork[16*i:]), be.Uint64(fork[16*i+8:])
			first, n := hi&^(1<<63)>>9, lo&(1<<21-1)
			at := hi&(1<<9-1)<<43 | lo>>21
			if hi>>63 == 0 && last >= first && last-first < n {
				at += last - first
				ag, in := at>>l.agBits, at&(1<<l.agBits-1)
				say((ag*l.agBlocks+in)*l.block, used, false)
			}
		}
	}
}

func (l *ntfsLayout) file(b []byte, say func(at uint64, value uint32, sum bool)) {
	if len(b) == 0 {
		return
	}
	r, ok := fixup(b)
	if !ok || le.Uint16(r[22:])&1 == 0 { // in use
		return
	}
	a, runs := ntfsData(r)
	if a == nil || le.Uint16(a[12:]) != 0 || le.Uint64(a[56:]) < le.Uint64(a[48:]) {
		return
	}
	last, used, ok := endOf(le.Uint64(a[48:]))
	if !ok {
		return
	}
	for _, x := range runs {
		if last < x.n {
			say((x.first+last)*l.cluster, used, false)
			return
		}
		last -= x.n
	}
}

func (l *btrfsLayout) sums(b []byte, say func(at uint64, value uint32, sum bool)) {
	const key = 128
	if len(b) < btrfsHead {
		return
	}
	for _, it := range btrfsItems(b) {
		if it.kind != key {
			continue
		}
		for i := 0; i+4 <= len(it.data); i += 4 {
			sum := le.Uint32(it.data[i:])
			if at := l.physical(it.offset + uint64(i)/4*block); len(at) == 1 && sum != zeroSum {
				say(at[0], sum, true)
			}
		}
	}
}
