package landmarks

// NTFS has a copy of its boot sector behind its last sector. Records of the MFT carry
// their number; where the MFT lies is said by its own record, 0.

// ntfsLog is the record of the log.
const ntfsLog = 2

// ntfsLayout is where things lie in a file system.
type ntfsLayout struct {
	cluster uint64 // bytes
	sectors uint64
	mft     uint64 // cluster of record 0
	mirror  uint64 // cluster of the copy of the first records
	record  uint64 // bytes
}

func (l *ntfsLayout) merge(more *ntfsLayout) {
	if l.cluster == 0 {
		*l = *more
	}
}

// mftRuns is what a record 0 says of where the MFT lies.
type mftRuns struct {
	piece, at uint64
	runs      []blockRun // clusters
}

// recordAt is where a record lies, as record 0 says.
func (l *ntfsLayout) recordAt(number uint64, runs []blockRun) (uint64, bool) {
	at := number * l.record
	for _, r := range runs {
		if n := r.n * l.cluster; at >= n {
			at -= n
			continue
		}
		return r.first*l.cluster + at, true
	}
	return 0, false
}

// boot looks at a sector that ends like a boot sector.
func (f *finder) boot(o int, b []byte) {
	if string(b[3:11]) != "NTFS    " {
		if f.at+uint64(o) == 0 {
			f.mbr(b)
		}
		return
	}
	sectorSize := uint64(le.Uint16(b[11:]))
	perCluster := uint64(b[13])
	if b[13] > 128 {
		perCluster = 1 << min(256-int(b[13]), 20)
	}
	l := &ntfsLayout{
		cluster: sectorSize * perCluster, sectors: le.Uint64(b[40:]), mft: le.Uint64(b[48:]), mirror: le.Uint64(b[56:]), record: uint64(b[64]),
	}
	if b[64] > 128 {
		l.record = 1 << (256 - int(b[64]))
	} else {
		l.record *= l.cluster
	}
	if sectorSize < 512 || sectorSize > 4096 || sectorSize&(sectorSize-1) != 0 || l.cluster == 0 || l.cluster > 2<<20 || l.cluster&(l.cluster-1) != 0 ||
		l.sectors == 0 || l.sectors >= 1<<48 || l.mft == 0 || l.mft >= l.sectors || l.record < 512 || l.record > 1<<16 || zero(b[72:80]) {
		return
	}
	l.sectors = l.sectors * sectorSize / sector
	f.add(o, foundMark{mark: mark{kind: ntfsBoot, count: 1}, id: id16("ntfs", b[72:80]), size: (l.sectors + sectorSize/sector) * sector, ntfs: l})
}

// ntfsRecord looks for a record of the MFT, whose sectors must belong together.
func (f *finder) ntfsRecord(o int, b []byte) {
	size := int(le.Uint32(b[28:]))
	if size < 1024 || size > 4096 || size&(size-1) != 0 {
		return
	}
	if len(b) < size {
		f.later(o, size)
		return
	}
	r, ok := fixup(b[:size])
	if !ok || le.Uint16(r[4:]) < 48 {
		return
	}
	m := foundMark{mark: mark{kind: ntfsRecord, address: uint64(le.Uint32(r[44:])), count: 1}}
	if m.address == 0 {
		// Those that are kept for later use have no number.
		_, runs := ntfsData(r)
		if len(runs) == 0 {
			return
		}
		f.mfts = append(f.mfts, mftRuns{piece: f.piece, at: f.at + uint64(o), runs: runs})
	}
	f.add(o, m)
}

// fixup gives a record with the ends of its sectors put back; ok tells that all were
// written together.
func fixup(b []byte) (r []byte, ok bool) {
	at, n := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if n != len(b)/sector+1 || at+2*n > sector-2 {
		return nil, false
	}
	r = append(r, b...)
	for i := 1; i < n; i++ {
		end := r[i*sector-2:]
		if le.Uint16(end) != le.Uint16(b[at:]) {
			return nil, false
		}
		copy(end[:2], b[at+2*i:])
	}
	return r, true
}

// ntfsData gives the attribute of a record that is its unnamed data, and where that lies;
// nil where it lies in the record.
func ntfsData(r []byte) (a []byte, runs []blockRun) {
	for at := int(le.Uint16(r[20:])); at+24 <= len(r); {
		kind, n := le.Uint32(r[at:]), int(le.Uint32(r[at+4:]))
		if kind == 0xffffffff || n < 24 || n > len(r)-at {
			break
		}
		if a := r[at : at+n]; kind == 0x80 && a[8] == 1 && a[9] == 0 && n >= 64 {
			if o := int(le.Uint16(a[32:])); o < n {
				return a, decodeRuns(a[o:])
			}
		}
		at += n
	}
	return nil, nil
}

func decodeRuns(b []byte) (runs []blockRun) {
	var cluster int64
	for len(b) > 0 && b[0] != 0 {
		n, d := int(b[0]&15), int(b[0]>>4)
		if n == 0 || n > 6 || d > 6 || len(b) < 1+n+d || len(runs) == 1<<10 {
			return nil
		}
		var length, delta int64
		for i := range n {
			length |= int64(b[1+i]) << (8 * i)
		}
		for i := range d {
			delta |= int64(b[1+n+i]) << (8 * i)
		}
		if d > 0 {
			delta = delta << (64 - 8*d) >> (64 - 8*d)
		}
		cluster += delta
		if d == 0 || cluster <= 0 {
			return nil
		}
		runs = append(runs, blockRun{uint64(cluster), uint64(length)})
		b = b[1+n+d:]
	}
	return runs
}
