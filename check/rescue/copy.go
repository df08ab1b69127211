package rescue

import (
	"context"
	"io"

	"github.com/qcheck/qcheck/qcow2"
)

// CopyOrphans writes what belongs nowhere any more to a file, at the offsets that it has in
// this one, so that the rest can stay a hole.
func (p *Plan) CopyOrphans(ctx context.Context, w io.WriterAt) error {
	buf := make([]byte, 1<<20)
	for _, o := range p.Orphans {
		for done := uint64(0); done < o.Length; {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(uint64(len(buf)), o.Length-done)]
			at := int64(o.Offset) + int64(done)
			if err := p.image.readBase(b, at); err != nil {
				b = b[:min(len(b), qcow2.SectorSize)]
				if p.image.readBase(b, at) != nil {
					clear(b) // it cannot be read
				}
			}
			if _, err := w.WriteAt(b, at); err != nil {
				return err
			}
			done += uint64(len(b))
		}
	}
	return nil
}
