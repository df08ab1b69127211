package rescue

import "github.com/qcheck/qcheck/qcow2"

// placeTables makes an L1 table of the L2 tables, where none is left.
func (s *search) placeTables() error {
	f := s.f
	if !f.dataFile {
		return ErrNoMapping
	}
	var entries []qcow2.L1Entry
	named := 0
	for i := range f.tables {
		t := &f.tables[i]
		if f.refs != nil && f.refs.get(t.off) == 0 {
			continue
		}
		if t.index >= qcow2.MaxL1Entries {
			continue
		}
		if n := t.index + 1; n > uint64(len(entries)) {
			entries = append(entries, make([]qcow2.L1Entry, n-uint64(len(entries)))...)
		}
		if entries[t.index] != 0 {
			return ErrNoMapping // two for one place
		}
		entries[t.index] = qcow2.NewL1Entry(t.off, true)
		named++
	}
	if named == 0 {
		return ErrNoMapping
	}
	s.m.l1 = entries
	s.active = l1table{entries: entries, room: uint64(len(entries)), start: true, named: named}
	s.m.fact("L1 table", SourceFound, "the data file's offsets are those of the disk", "%d L2 tables", named)
	return nil
}
