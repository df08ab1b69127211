package landmarks

import (
	"cmp"
	"fmt"
	"slices"
)

// witness is what a file system says of a block that lies at a place on the disk.
type witness struct {
	at    uint64
	value uint32
	sum   bool // value is its checksum, or else where the zeros at its end begin
}

func (w *witness) agrees(b []byte) (yes, no bool) {
	if w.sum {
		yes = crc(b) == w.value
		return yes, !yes
	}
	// A file may end in zeros of its own.
	return tail(b) == int(w.value), !zero(b[w.value:])
}

const (
	// So many blocks must agree. One that has nothing to do with it ends at a given
	// byte in one of some thousand cases; has a given checksum in one of four billion.
	enoughTails = 4
	enoughSums  = 3
	manyTails   = 16 // enough for some to be of files that were changed since
	maxAsked    = 64 // blocks of one piece that are read again
)

// hearing collects what witnesses say of pieces.
type hearing struct {
	r         *resolver
	votes     map[hearsay]*tally
	witnesses map[uint64][]witness // by index, some of each
	expected  map[uint64]int       // by cluster, how many checksums there are of it
}

type hearsay struct{ piece, index uint64 }

type tally struct{ tails, sums int }

func (c *tally) enough() bool { return c.sums >= enoughSums || c.tails >= enoughTails }

func (c *tally) all() int { return c.tails + 4*c.sums }

// hear has the file systems say where pieces belong that are not placed for certain.
func (r *resolver) hear(c *root) {
	if r.Read == nil && r.ReadStray == nil {
		return
	}
	if r.strays.list == nil && !r.missing(c) {
		return
	}
	h := &hearing{r: r, votes: make(map[hearsay]*tally), witnesses: make(map[uint64][]witness), expected: make(map[uint64]int)}
	for _, v := range c.volumes {
		v.testify(r, h.take)
		if v.log != nil && r.Read != nil {
			defer r.placeLog(v, c)
		}
	}
	settled := make(map[uint64]bool)
	for _, p := range c.placed {
		settled[p.Piece] = p.Certain
	}
	best := h.best()
	for _, piece := range sortedKeys(best) {
		vote := best[piece]
		if piece&stray != 0 {
			h.stray(c, piece, vote)
			continue
		}
		if settled[piece] || !h.confirmed(piece, vote.index) {
			continue
		}
		if i, ok := r.known[piece]; ok && i != vote.index {
			continue
		}
		p := Place{Piece: piece, Index: vote.index, Certain: true, Marks: vote.n, Why: vote.why}
		i := slices.IndexFunc(c.placed, func(p Place) bool { return p.Piece == piece })
		switch {
		case i < 0:
			c.placed = append(c.placed, p)
		case c.placed[i].Index != p.Index:
			c.placed = slices.Delete(c.placed, i, i+1) // two stories
			delete(c.at, piece)
			continue
		default:
			p.Why = c.placed[i].Why + ", and " + p.Why
			c.placed[i] = p
		}
		c.at[piece] = p.Index
	}
}

// missing tells whether there are pieces that are not placed for certain.
func (r *resolver) missing(c *root) bool {
	sure := len(r.known)
	for _, p := range c.placed {
		if _, known := r.known[p.Piece]; p.Certain && !known {
			sure++
		}
	}
	return sure < len(r.Scanner.pieces)
}

func sortedKeys[V any](m map[uint64]V) (keys []uint64) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// maxVotes bounds what is remembered of hearsay.
const maxVotes = 1 << 20

func (h *hearing) take(w witness) {
	index := w.at / h.r.length
	list := &h.r.tails
	if w.sum {
		list = &h.r.sums
	}
	if ws := h.witnesses[index]; len(ws) < maxAsked {
		h.witnesses[index] = append(ws, w)
	}
	list.with(printKey(w.at%h.r.length, w.value), func(piece uint64) { h.vote(hearsay{piece, index}, w.sum) })
	if cluster := h.r.cluster; w.sum && cluster > 0 && len(h.expected) < maxVotes {
		index := w.at / cluster
		h.expected[index]++
		h.r.strays.with(printKey(w.at%cluster, w.value), func(piece uint64) { h.vote(hearsay{piece, index}, true) })
	}
}

func (h *hearing) vote(key hearsay, sum bool) {
	c := h.votes[key]
	if c == nil {
		if len(h.votes) == maxVotes {
			return
		}
		c = &tally{}
		h.votes[key] = c
	}
	if sum {
		c.sums++
	} else {
		c.tails++
	}
}

// stray places a stray cluster all of whose checksums are right.
func (h *hearing) stray(c *root, piece uint64, vote heard) {
	if h.r.strays.zeros > 0 || vote.n != h.expected[vote.index] {
		return
	}
	p := Place{Piece: piece &^ stray, Index: vote.index, Certain: true, Marks: vote.n, Why: vote.why}
	i := slices.IndexFunc(c.strays, func(p Place) bool { return p.Piece == piece&^stray })
	switch {
	case i < 0:
		c.strays = append(c.strays, p)
	case c.strays[i].Index == p.Index:
		c.strays[i].Certain = true
	default:
		c.strays = slices.Delete(c.strays, i, i+1)
	}
}

type heard struct {
	index uint64
	n     int
	why   string
}

// best gives for each piece the place for which enough witnesses speak, and hardly any for
// another.
func (h *hearing) best() map[uint64]heard {
	first, second := make(map[uint64]hearsay), make(map[uint64]int)
	for k, c := range h.votes {
		old, ok := first[k.piece]
		switch {
		case !ok:
			first[k.piece] = k
		case cmp.Or(cmp.Compare(c.all(), h.votes[old].all()), cmp.Compare(old.index, k.index)) > 0:
			second[k.piece] = max(second[k.piece], h.votes[old].all())
			first[k.piece] = k
		default:
			second[k.piece] = max(second[k.piece], c.all())
		}
	}
	best := make(map[uint64]heard)
	for piece, k := range first {
		c := h.votes[k]
		if !c.enough() || second[piece]*4 > c.all() {
			continue
		}
		why := fmt.Sprintf("%d files end where their file system says", c.tails)
		if c.sums > c.tails {
			why = fmt.Sprintf("%d blocks have the checksums that their file system has of them", c.sums)
		}
		best[piece] = heard{k.index, c.tails + c.sums, why}
	}
	return best
}

// confirmed reads blocks again: those of which nothing was seen must not contradict.
func (h *hearing) confirmed(piece, index uint64) bool {
	if h.r.Read == nil {
		return false
	}
	var b [block]byte
	yes, no := 0, 0
	for _, w := range h.witnesses[index] {
		if h.r.Read(piece, w.at%h.r.length, b[:]) != nil {
			continue
		}
		y, n := w.agrees(b[:])
		if y {
			yes++
		}
		if n {
			no++
		}
	}
	return no == 0 && yes >= enoughSums || yes >= manyTails && no*16 <= yes
}
