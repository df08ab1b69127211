package proof

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// edits is a stage of a plan in a test.
type edits []Edit

func (l *edits) Next() (Edit, bool) {
	if len(*l) == 0 {
		return Edit{}, false
	}
	e := (*l)[0]
	*l = (*l)[1:]
	return e, true
}

func (l *edits) Clone() Cursor {
	same := *l
	return &same
}

// between gives the plan that makes one image another one.
func between(t testing.TB, was, is *corpus.Image) *Plan {
	t.Helper()
	a, b := make([]byte, is.Size()), make([]byte, is.Size())
	_, _ = was.ReadAt(a, 0)
	_, err := is.ReadAt(b, 0)
	require.NoError(t, err)
	var all edits
	for i := 0; i < len(b); {
		if i+512 <= len(b) && bytes.Equal(a[i:i+512], b[i:i+512]) {
			i += 512
			continue
		}
		if a[i] == b[i] {
			i++
			continue
		}
		end := i
		for end < len(b) && a[end] != b[end] {
			end++
		}
		all = append(all, Edit{qcow2.HostOffset(i), b[i:end]})
		i = end
	}
	return &Plan{Stages: []Cursor{&all}, NewSize: is.Size()}
}

// kinds are images of many kinds. The active disk and snapshot 1 have a cluster each that
// the other has not; cluster 4 is compressed, cluster 6 zero, cluster 9 empty.
func kinds() map[string]corpus.Spec {
	kinds := make(map[string]corpus.Spec)
	add := func(name string, s corpus.Spec, without ...string) {
		if s.ClusterBits == 0 {
			s.ClusterBits = 16
		}
		s.Size = 1 << (s.ClusterBits + 8)
		cs := uint64(1) << s.ClusterBits
		has := func(what string) bool {
			for _, w := range without {
				if w == what {
					return false
				}
			}
			return true
		}
		s.Ops = append(s.Ops, corpus.Write{Length: 4 * cs, Pattern: 1, Stamp: true})
		if has("compressed") {
			s.Ops = append(s.Ops, corpus.Write{Offset: 4 * cs, Length: 2 * cs, Pattern: 2, Compressed: true})
		}
		if has("zero") {
			s.Ops = append(s.Ops, corpus.Zero{Offset: 6 * cs, Length: cs})
		}
		if has("snapshots") {
			s.Ops = append(s.Ops, corpus.Snapshot{ID: "1", Name: "one"}, corpus.Write{Offset: cs, Length: cs, Pattern: 3, Stamp: true})
		}
		s.Ops = append(s.Ops, corpus.Reserve{Name: "spare", Clusters: 2})
		if has("bitmaps") {
			s.Bitmaps = []corpus.Bitmap{
				{Name: "b0", GranularityBits: 9, Dirty: []corpus.Range{{Offset: 0, Length: 3 * cs}}},
				{Name: "b1", GranularityBits: 16, Auto: true, InUse: true, Dirty: []corpus.Range{{Offset: 0, Length: cs}}},
			}
		}
		kinds[name] = s
	}
	add("default", corpus.Spec{})
	add("clusters of 512 bytes", corpus.Spec{ClusterBits: 9})
	add("clusters of 256 KiB", corpus.Spec{ClusterBits: 18}, "compressed")
	add("extended L2", corpus.Spec{ExtendedL2: true})
	add("version 2", corpus.Spec{Version: 2}, "bitmaps", "zero")
	add("zstd", corpus.Spec{Compression: qcow2.CompressionZstd})
	add("refcounts of 1 bit", corpus.Spec{RefcountBits: 1}, "snapshots", "compressed")
	add("refcounts of 64 bits", corpus.Spec{RefcountBits: 64})
	add("LUKS", corpus.Spec{Crypt: qcow2.CryptLUKS}, "compressed")
	add("backing file", corpus.Spec{Backing: &corpus.Backing{Name: "base.raw", Format: "raw", Size: 1 << 20}})
	add("data file", corpus.Spec{DataFile: &corpus.DataFile{Name: "data.raw"}}, "compressed", "snapshots")
	add("no bitmaps", corpus.Spec{}, "bitmaps")
	return kinds
}

// plan is one made on purpose: the image is made what the damages make of it.
type plan struct {
	name    string
	before  []corpus.Damage // what is wrong with the image
	changes []corpus.Damage
	declare Declared
	allow   Allowed
	fill    func(*Declared, finder) // completes what is declared
	shorter int64                   // how many bytes the file loses
	needs   func(s *corpus.Spec) bool
}

func TestProveRefuses(t *testing.T) {
	refused := make(map[string]int)
	for name, spec := range kinds() {
		t.Run(name, func(t *testing.T) {
			n := 0
			for _, p := range wrong(&spec) {
				err, possible := proveOne(t, spec, &p)
				if !possible {
					continue
				}
				_, is := errors.AsType[*Error](err)
				assert.True(t, is, "%s: %v", p.name, err)
				t.Logf("%s: %v", p.name, err)
				refused[p.name]++
				n++
			}
			assert.GreaterOrEqual(t, n, 15)
		})
	}
	for _, p := range wrong(&corpus.Spec{ClusterBits: 16}) {
		assert.Positive(t, refused[p.name], "%s was made of no image", p.name)
	}
}

func TestProveAccepts(t *testing.T) {
	for name, spec := range kinds() {
		t.Run(name, func(t *testing.T) {
			for _, p := range right(&spec) {
				if err, possible := proveOne(t, spec, &p); possible {
					assert.NoError(t, err, p.name)
				}
			}
		})
	}
}

// proveOne tries a plan on an image, if it can be made for one of that kind.
func proveOne(t *testing.T, spec corpus.Spec, p *plan) (err error, possible bool) {
	t.Helper()
	if p.needs != nil && !p.needs(&spec) {
		return nil, false
	}
	img, err := corpus.Build(spec)
	require.NoError(t, err)
	for _, d := range p.before {
		if _, err := d.Apply(img); err != nil {
			return nil, false
		}
	}
	will := img.Clone()
	for _, d := range p.changes {
		if _, err := d.Apply(will); err != nil {
			return nil, false
		}
	}
	made := between(t, img, will)
	made.Declared = p.declare
	made.NewSize -= p.shorter
	if p.fill != nil {
		possible = true
		p.fill(&made.Declared, func(at corpus.Place) qcow2.HostOffset {
			x, err := img.Find(at)
			possible = possible && err == nil
			return x.Offset
		})
		if !possible {
			return nil, false
		}
	}
	opened, err := qcow2.Open(img, img.Size())
	require.NoError(t, err)
	res, ev, err := check.Inspect(t.Context(), opened, check.Options{})
	require.NoError(t, err)
	return Prove(t.Context(), img, img.Size(), made, p.allow, Before{Result: res, Doubts: ev.Doubts, Snapshots: ev.Snapshots, Bitmaps: ev.Bitmaps}), true
}
