package repair

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// halfDone is a world in which a repair was interrupted when the image was neither
// as before nor as after.
func halfDone(t *testing.T, s *scene) *world {
	t.Helper()
	w := s.applied(t)
	for k := len(w.log); k > 0; k-- {
		if c := w.killed(k); s.half(c.image) && !w.begunMark(k, markVerified) {
			c.settle()
			return c
		}
	}
	return nil
}

// What a damaged journal says is not believed. Whatever byte of it is changed, the
// image is brought back, or nothing is written.
func TestDamagedJournal(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 23))
	refused, restored := 0, 0
	for _, s := range scenes(40) {
		for _, w := range []*world{halfDone(t, &s), s.applied(t)} {
			if w == nil {
				continue
			}
			w.settle()
			check := func(c *world, at int) {
				c.settle()
				was := c.copy()
				err := Undo(file{c}, journalFile{c})
				if err == nil {
					restored++
					require.Equal(t, s.before, c.image, "%s, byte %d", s.name, at)
					return
				}
				refused++
				_, damaged := errors.AsType[*DamagedError](err)
				_, changed := errors.AsType[*ChangedError](err)
				require.True(t, damaged || changed, "%s, byte %d: %v", s.name, at, err)
				require.Empty(t, c.log, "%s, byte %d", s.name, at)
				require.Equal(t, was.image, c.image)
			}
			for range 60 {
				c := w.killed(0)
				at := r.IntN(len(c.journal))
				if r.IntN(2) == 0 {
					at = r.IntN(identitySize) + journalBlock*r.IntN(2+int(lastMark)) // identity, head and marks
				}
				c.journal[at] ^= 1 << r.IntN(8)
				check(c, at)
			}
			for range 10 {
				c := w.killed(0)
				// Cut off before the seal, a journal looks like one that was never
				// made: that it was there nobody can know.
				sealed := int(markSealed.offset()) + markSize
				at := sealed + r.IntN(len(c.journal)-sealed)
				c.journal = c.journal[:at]
				check(c, at)
			}
		}
	}
	require.Positive(t, refused)
	require.Positive(t, restored)
}

// The kinds of trouble with a journal.
func TestState(t *testing.T) {
	list := scenes(40)
	var s *scene
	for i := range list {
		if list[i].marks && halfDone(t, &list[i]) != nil {
			s = &list[i]
			break
		}
	}
	require.NotNil(t, s)
	open, finished := halfDone(t, s).journal, s.applied(t).journal
	with := func(b []byte, at int64, bytes ...byte) []byte {
		c := append([]byte(nil), b...)
		copy(c[at:], bytes)
		return c
	}
	reseal := func(b []byte) []byte {
		j := &journal{}
		_ = j.identity.decode(b)
		_ = j.decodeHead(b[headAt:recordsAt])
		copy(b[markSealed.offset():], j.encodeMark(markSealed, time.Time{}))
		return b
	}
	const h = headAt
	for _, c := range []struct {
		name   string
		b      []byte
		phase  Phase
		damage Damage
		broken bool
	}{
		// What does not begin with a whole record of which image it is for is never ours.
		{name: "empty", damage: DamagedForeign, broken: true},
		{name: "zeros", b: make([]byte, 100_000), damage: DamagedForeign, broken: true},
		{name: "identity torn in the magic", b: []byte("QCHK"), damage: DamagedForeign, broken: true},
		{name: "nothing but the magic", b: []byte(journalMagic), damage: DamagedContent, broken: true},
		{name: "identity torn", b: open[:100], damage: DamagedContent, broken: true},
		{name: "identity torn at its end", b: open[:identitySize-1], damage: DamagedContent, broken: true},
		{name: "nothing but the identity", b: open[:identitySize], phase: PhaseIncomplete},
		{name: "head torn in the magic", b: open[:h+4], phase: PhaseIncomplete},
		{name: "head torn", b: open[:h+700], phase: PhaseIncomplete},
		{name: "head missing", b: with(open[:recordsAt], h, make([]byte, recordsAt-h)...), phase: PhaseIncomplete},
		{name: "not sealed", b: with(open, markSealed.offset(), make([]byte, markSize)...), phase: PhaseIncomplete},
		{name: "seal torn", b: with(open, markSealed.offset()+30, make([]byte, 30)...), phase: PhaseOpen},
		{name: "seal torn, records not there", b: with(open[:recordsAt], markSealed.offset()+30, make([]byte, 30)...), phase: PhaseIncomplete},
		{name: "open", b: open, phase: PhaseOpen},
		{name: "finished", b: finished, phase: PhaseFinished},
		{name: "foreign", b: []byte("#!/bin/sh\n"), damage: DamagedForeign, broken: true},
		{name: "foreign, begins alike", b: []byte("QCHKMARK"), damage: DamagedForeign, broken: true},
		{name: "later version", b: with(open, 8, journalVersion+1), damage: DamagedVersion, broken: true},
		{name: "earlier version", b: with(open, 8, journalVersion-1), damage: DamagedVersion, broken: true},
		{name: "identity lost", b: with(open, 0, make([]byte, identitySize)...), damage: DamagedContent, broken: true},
		{name: "another image's identity", b: with(open, 0, (&identity{size: 5}).encode()...), damage: DamagedContent, broken: true},
		{name: "head lost", b: with(open, h, make([]byte, 8)...), damage: DamagedContent, broken: true},
		{name: "records lost", b: open[:recordsAt], damage: DamagedContent, broken: true},
		{name: "another journal's seal", b: with(open, markSealed.offset(), (&journal{}).encodeMark(markSealed, time.Time{})...), damage: DamagedContent, broken: true},
		{name: "unknown flag", b: reseal(rehead(with(open, h+12, 0x81))), damage: DamagedContent, broken: true},
		{name: "mark denied", b: reseal(rehead(with(open, h+12, 0))), damage: DamagedContent, broken: true},
		{name: "sizes wrap", b: reseal(rehead(with(open, h+32, 0, 0, 0, 0, 0, 0, 0, 0x80))), damage: DamagedContent, broken: true},
		{name: "length wraps", b: reseal(rehead(with(open, h+48, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f))), damage: DamagedContent, broken: true},
		{name: "length is too long", b: reseal(rehead(with(open, h+50, 1))), damage: DamagedContent, broken: true},
		{name: "more records", b: reseal(rehead(with(open, h+44, 1))), damage: DamagedContent, broken: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := worldOf(s.before)
			w.journal, w.exists = c.b, true
			w.settle()
			is, err := StateOf(place{w})
			if c.broken {
				d, ok := errors.AsType[*DamagedError](err)
				require.True(t, ok, "%v", err)
				require.Equal(t, c.damage, d.Kind)
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, c.phase, is.Phase)
			require.Empty(t, w.log)
			if c.broken || c.phase == PhaseIncomplete {
				// It is never written to the image, and removed if it is of no use.
				r, err := Recover(file{w}, place{w})
				require.Equal(t, c.broken, err != nil)
				require.Equal(t, c.broken, w.exists)
				if !c.broken {
					require.Equal(t, RecoveredDropped, r.Action)
				}
				require.Equal(t, s.before, w.image)
			}
		})
	}
}

// rehead makes the checksum of a changed head right.
func rehead(b []byte) []byte {
	copy(b[headAt+headDigestAt:], headSum(b[headAt:]))
	return b
}

// Records that contradict themselves are refused, also where every checksum holds:
// a journal may come from a stranger.
func TestHostileRecords(t *testing.T) {
	type rec struct {
		at       uint64
		n        uint32
		versions uint16
		stored   uint16
		payload  int
	}
	for _, c := range []struct {
		name string
		recs []rec
		ok   bool
	}{
		{"sound", []rec{{512, 8, 1, 1, 16}, {4096, 8, 2, 0, 16}}, true},
		{"in the first sector", []rec{{511, 8, 1, 1, 16}}, false},
		{"empty", []rec{{512, 0, 1, 1, 0}}, false},
		{"no versions", []rec{{512, 8, 0, 1, 8}}, false},
		{"too many versions", []rec{{512, 8, 6, 1, 56}}, false},
		{"neither stored nor not", []rec{{512, 8, 1, 2, 16}}, false},
		{"too long", []rec{{4096, maxRecord + 1, 1, 0, maxRecord + 1}}, false},
		{"across the old end", []rec{{4090, 8, 1, 1, 16}}, false},
		{"not stored before the old end", []rec{{600, 8, 1, 0, 8}}, false},
		{"stored past the old end", []rec{{4096, 8, 1, 1, 16}}, false},
		{"past the new end", []rec{{1 << 20, 8, 1, 0, 8}}, false},
		{"wraps", []rec{{1<<64 - 4, 8, 1, 0, 8}}, false},
		{"overlap", []rec{{512, 8, 1, 1, 16}, {519, 8, 1, 1, 16}}, false},
		{"out of order", []rec{{600, 8, 1, 1, 16}, {512, 8, 1, 1, 16}}, false},
		{"payload missing", []rec{{512, 8, 1, 1, 15}}, false},
		{"head missing", []rec{{512, 8, 1, 1, 16}, {600, 0, 0, 0, -1}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := syntheticImage(rand.New(rand.NewPCG(2, 2)), 3, 4096)
			var records []byte
			for _, r := range c.recs {
				if r.payload < 0 {
					records = append(records, 1, 2, 3)
					continue
				}
				records = append(records, rawRecord(r.at, r.n, r.versions, r.stored, make([]byte, r.payload))...)
			}
			w := worldOf(image)
			w.journal, w.exists = rawJournal(image, 4096, 1<<20, uint64(len(c.recs)), records), true
			w.settle()
			is, err := StateOf(place{w})
			if c.ok {
				require.NoError(t, err)
				require.Equal(t, PhaseOpen, is.Phase)
				return
			}
			_, ok := errors.AsType[*DamagedError](err)
			require.True(t, ok, "%v", err)
			require.Empty(t, w.log)
		})
	}
}

// rawRecord is a record with checksums that hold, whatever it says.
func rawRecord(at uint64, n uint32, versions, stored uint16, payload []byte) []byte {
	head := make([]byte, recordHeadSize)
	le := binary.LittleEndian
	le.PutUint64(head, at)
	le.PutUint32(head[8:], n)
	le.PutUint16(head[12:], versions)
	le.PutUint16(head[14:], stored)
	le.PutUint32(head[16:], crcOf(payload))
	le.PutUint32(head[20:], crcOf(head[:20]))
	return append(head, payload...)
}

// rawJournal is a sealed journal with checksums that hold.
func rawJournal(image []byte, oldSize, newSize int64, n uint64, records []byte) []byte {
	sector := image[:min(len(image), 512)]
	j := &journal{
		identity: identity{time: time.Unix(1, 0), size: oldSize, sector: sumOf(sector)},
		corrupts: canMark(sector), oldSize: oldSize, newSize: newSize, records: n,
		length: int64(len(records)), sum: sumOf(records), before: sector, after: sector,
	}
	b := make([]byte, recordsAt, int(recordsAt)+len(records))
	copy(b, j.identity.encode())
	copy(b[headAt:], j.encodeHead())
	copy(b[markSealed.offset():], j.encodeMark(markSealed, time.Unix(2, 0)))
	return append(b, records...)
}

// rehash makes the checksums of records right.
func rehash(records []byte) []byte {
	records = bytes.Clone(records)
	le := binary.LittleEndian
	for b := records; len(b) > recordHeadSize; {
		size := min(len(b)-recordHeadSize, int(le.Uint32(b[8:]))*int(le.Uint16(b[12:])+le.Uint16(b[14:])))
		le.PutUint32(b[16:], crcOf(b[recordHeadSize:][:size]))
		le.PutUint32(b[20:], crcOf(b[:20]))
		b = b[recordHeadSize+size:]
	}
	return records
}

// A fuzzer's journal is either refused, with nothing written, or leaves the image as
// it says that it was.
func FuzzJournal(f *testing.F) {
	for i, s := range scenes(6) {
		w := worldOf(s.before)
		if _, err := s.apply(w); err != nil {
			f.Fatal(err)
		}
		f.Add(w.image, w.journal[:2*journalBlock], w.journal[recordsAt:], uint8(i))
	}
	f.Fuzz(func(t *testing.T, image, head, records []byte, marks uint8) {
		if len(image) == 0 || len(head) > 2*journalBlock {
			return
		}
		// Sums that hold, so that something is found behind them.
		b := make([]byte, recordsAt, int(recordsAt)+len(records))
		copy(b, head)
		if marks&1 != 0 {
			records = rehash(records)
			h := b[headAt:]
			binary.LittleEndian.PutUint64(h[48:], uint64(len(records)))
			sum := sumOf(records)
			copy(h[64:], sum[:])
			le := binary.LittleEndian
			le.PutUint32(b[identitySumEnd:], crcOf(b[:identitySumEnd]))
			id := sumOf(b[:identitySize])
			copy(h[96:], id[:])
			rehead(b)
		}
		j := &journal{digest: [32]byte(b[headAt+headDigestAt : headAt+journalBlock])}
		for m := markSealed; m <= lastMark; m++ {
			if marks>>m&1 != 0 {
				copy(b[m.offset():], j.encodeMark(m, time.Time{}))
			}
		}
		w := worldOf(image)
		w.journal, w.exists = append(b, records...), true
		w.settle()
		is, err := StateOf(place{w})
		undoErr := Undo(file{w}, journalFile{w})
		switch {
		case undoErr != nil || is.Phase == PhaseIncomplete || is.Phase == PhaseUndone:
			require.Empty(t, w.log)
			require.True(t, bytes.Equal(image, w.image))
		default:
			require.NoError(t, err)
			require.EqualValues(t, is.OldSize, len(w.image))
			again, err := StateOf(place{w})
			require.NoError(t, err)
			require.Equal(t, PhaseUndone, again.Phase)
		}
	})
}
