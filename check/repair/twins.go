package repair

import (
	"context"

	"github.com/qcheck/qcheck/qcow2"
)

// fewWrong is up to how many wrong refcounts a pair of them that is one bit apart means
// something although nothing is in doubt: of many, as a crash leaves them, some always are.
const fewWrong = 16

// findTwins finds the clusters with a reference too many that are one bit away from one
// with a reference too few: of the entries that lead to the first, one has most likely a
// flipped bit, and belongs to the second. As long as nobody can say which, what tells so
// stays as it is: to raise the refcount, or to turn COPIED, would make the image look
// sound, and the next repair would free the second cluster.
func (s *session) findTwins(ctx context.Context) error {
	if s.losing() || s.h.IncompatibleFeatures.Has(qcow2.IncompatDirty) {
		return nil // refcounts that a writer has not written yet say nothing
	}
	s.twins = make(map[qcow2.HostCluster]bool)
	for _, cl := range s.opts.open {
		s.twins[cl] = true
	}
	im, err := balanceOf(ctx, s.opts, s.ev)
	if err != nil || len(im.low) == 0 || len(im.high) == 0 || len(s.ev.Doubts) == 0 && len(im.low)+len(im.high) > fewWrong {
		return err
	}
	lacking := im.lacking()
	for _, d := range im.low {
		for bit := range 56 - int(s.g.ClusterBits) {
			if lacking[d.cluster^1<<bit] {
				s.twins[d.cluster] = true
				break
			}
		}
	}
	return nil
}
