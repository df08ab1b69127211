package repair

import (
	"io"
	"io/fs"
)

// memoryJournals keeps the undo journal of a repair that leaves none behind.
type memoryJournals struct {
	b []byte
}

func (m *memoryJournals) Create() (JournalFile, error) { return m, nil }
func (m *memoryJournals) Open() (JournalFile, error)   { return nil, fs.ErrNotExist }
func (m *memoryJournals) Publish() error               { return nil }
func (m *memoryJournals) Remove() error                { m.b = nil; return nil }
func (m *memoryJournals) SyncDir() error               { return nil }
func (m *memoryJournals) Sync() error                  { return nil }
func (m *memoryJournals) Close() error                 { return nil }

func (m *memoryJournals) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memoryJournals) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, end-int64(len(m.b)))...)
	}
	return copy(m.b[off:], p), nil
}
