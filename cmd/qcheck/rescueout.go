package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/rescue"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/qcow2"
)

// writeOut writes the new image and checks it. It never writes over another file.
func (c *RescueCmd) writeOut(ctx context.Context, f *imagefile.File, p *rescue.Plan, part bool) (res *check.Result, err error) {
	out, err := os.OpenFile(c.Out, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			os.Remove(c.Out)
		}
	}()
	if part {
		if err := p.CopyUsed(ctx, out); err != nil {
			return nil, fmt.Errorf("%s: %w", check.Escape(c.Out), err)
		}
	} else if f.CloneTo(out) != nil {
		if err := copyStored(ctx, out, f); err != nil {
			return nil, fmt.Errorf("%s: %w", check.Escape(c.Out), err)
		}
	}
	if err := p.WriteTo(ctx, out); err != nil {
		return nil, err
	}
	if err := out.Sync(); err != nil {
		return nil, err
	}
	done, err := imagefile.Open(c.Out, imagefile.Options{})
	if err != nil {
		return nil, err
	}
	defer done.Close()
	img, err := qcow2.Open(done, done.Size())
	if err != nil {
		return nil, err
	}
	res, err = check.Run(ctx, img, check.Options{Jobs: int(c.Jobs), MemoryLimit: defaultMemory(), NoBacking: true})
	if err == nil && res.Totals != p.Result.Totals {
		err = fmt.Errorf("%s: a check of what was written finds %s, not %s", check.Escape(c.Out), res.Verdict, p.Result.Verdict)
	}
	return res, err
}

// copyStored copies what is stored of a file. What cannot be read stays a hole: the plan
// does without it, or says that it is missing.
func copyStored(ctx context.Context, out *os.File, f *imagefile.File) error {
	if err := out.Truncate(f.Size()); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for at := int64(0); at < f.Size(); {
		start, end, err := f.NextData(at)
		if err != nil {
			start, end = at, f.Size()
		}
		for at = start; at < end; {
			if err := ctx.Err(); err != nil {
				return errInterrupted
			}
			n, err := f.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
			if n == 0 && err != nil && !errors.Is(err, io.EOF) {
				n, err = readSectors(f, buf[:min(int64(len(buf)), end-at)], at), nil
			}
			if _, err := out.WriteAt(buf[:n], at); err != nil {
				return err
			}
			if at += int64(n); errors.Is(err, io.EOF) || n == 0 {
				break
			}
		}
		at = max(at, end)
	}
	return nil
}

// readSectors reads what can be read; the rest is zeros.
func readSectors(f *imagefile.File, b []byte, at int64) int {
	clear(b)
	for i := 0; i < len(b); i += qcow2.SectorSize {
		part := b[i:min(i+qcow2.SectorSize, len(b))]
		if n, err := f.ReadAt(part, at+int64(i)); err != nil {
			clear(part[n:])
		}
	}
	return len(b)
}

// section gives the part of the file that is the image; nil is all of it.
func (c *RescueCmd) section(ctx context.Context, s *streams, f *imagefile.File) (*rescue.Section, error) {
	at := int64(0)
	switch {
	case c.Offset != nil:
		at = int64(*c.Offset)
	case c.Search:
		s.progress = newProgressLine(c.Progress, s.err, c.Image)
		defer s.progress.done()
		found, err := rescue.Headers(ctx, f, f.Size(), func(done, total uint64) {
			if hook := s.progress.hook(); hook != nil {
				hook(check.Progress{Pass: "search", Done: done, Total: total})
			}
		})
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, &repairFailure{image: c.Image, err: fmt.Errorf("%w: no header of one was found in it", qcow2.ErrNotQcow2)}
		}
		if len(found) > 1 {
			list := make([]string, 0, mostListed)
			for _, off := range found[:min(len(found), mostListed)] {
				list = append(list, fmt.Sprintf("0x%x", off))
			}
			return nil, &repairFailure{image: c.Image, err: fmt.Errorf("%d headers of qcow2 images begin in it, at %s", len(found), strings.Join(list, ", ")),
				hint: "`--offset` says which one is meant; a guest can have images of its own"}
		}
		at = found[0]
	default:
		return nil, nil
	}
	if at >= f.Size() || at%qcow2.SectorSize != 0 {
		return nil, &usageError{text: fmt.Sprintf("--offset: %d is not the offset of a sector of the file", at), hint: helpHint("rescue")}
	}
	return &rescue.Section{R: f, Offset: at, Length: f.Size() - at}, nil
}

// writeOrphans writes what belongs nowhere, and the list of it.
func (c *RescueCmd) writeOrphans(ctx context.Context, p *rescue.Plan, rep *rescueReport) (err error) {
	out, err := os.OpenFile(c.Orphans, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(p.OldSize); err != nil {
		return err
	}
	if err := p.CopyOrphans(ctx, out); err != nil {
		return fmt.Errorf("%s: %w", check.Escape(c.Orphans), err)
	}
	if err := out.Sync(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(rep.Orphans, "", "    ")
	if err != nil {
		return err
	}
	list, err := os.OpenFile(c.Orphans+".json", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = list.Write(append(b, '\n'))
	return errors.Join(err, list.Close())
}

// rescueReport is what the command says, for a reader and as JSON.
type rescueReport struct {
	Filename string          `json:"filename"`
	Out      string          `json:"out,omitempty"`
	InPlace  bool            `json:"in-place,omitempty"`
	Complete bool            `json:"complete"`
	Facts    []rescueFact    `json:"facts"`
	Missing  []rescueMissing `json:"missing"`
	Lost     []string        `json:"lost"`
	Orphans  []rescueOrphan  `json:"orphans"`
	Verdict  check.Verdict   `json:"verdict"`
	ExitCode int             `json:"exit-code"`

	Result *check.Result `json:"-"`
}

type rescueFact struct {
	What   string        `json:"what"`
	Value  string        `json:"value,omitempty"`
	Source rescue.Source `json:"source"`
	Why    string        `json:"why,omitempty"`
}

type rescueMissing struct {
	Snapshot string `json:"snapshot,omitempty"`
	Offset   uint64 `json:"guest-offset"`
	Length   uint64 `json:"length"`
	Why      string `json:"why"`
}

type rescueOrphan struct {
	Offset uint64 `json:"offset"`
	Length uint64 `json:"length"`
}

func (c *RescueCmd) report(p *rescue.Plan) *rescueReport {
	r := &rescueReport{Filename: c.Image, Out: c.Out, InPlace: c.InPlace, Result: p.Result, Complete: p.Complete(),
		Facts: []rescueFact{}, Missing: []rescueMissing{}, Lost: append([]string{}, p.Lost...), Orphans: []rescueOrphan{}, Verdict: p.Result.Verdict}
	for _, f := range p.Facts {
		r.Facts = append(r.Facts, rescueFact(f))
	}
	for _, m := range p.Missing {
		r.Missing = append(r.Missing, rescueMissing(m))
	}
	for _, o := range p.Orphans {
		r.Orphans = append(r.Orphans, rescueOrphan{uint64(o.Offset), o.Length})
	}
	switch {
	case !r.Complete || p.Result.ExitCode() != check.ExitSound:
		r.ExitCode = int(exitCorrupt)
	default:
		r.ExitCode = int(exitSound)
	}
	return r
}

// write writes the report.
func (r *rescueReport) write(w io.Writer, format string) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "    ")
		return enc.Encode(r)
	}
	p := &printer{w: w}
	name := check.Escape(r.Filename)
	p.line("%s: a qcow2 image can be rebuilt from it", name)
	for _, f := range r.Facts {
		text := fmt.Sprintf("  %-14s", f.What)
		if f.Value != "" {
			text += " " + check.Escape(f.Value)
		}
		text += " (" + string(f.Source)
		if f.Why != "" {
			text += ": " + check.Escape(f.Why)
		}
		p.line("%s)", text)
	}
	r.writeMissing(p)
	r.writeNext(p, name)
	return p.err
}

// mostListed is how many lines of a kind are shown.
const mostListed = 20

func (r *rescueReport) writeMissing(p *printer) {
	total := uint64(0)
	for i, m := range r.Missing {
		total += m.Length
		if i == mostListed {
			p.line("  … and %d more", len(r.Missing)-i)
		}
		if i >= mostListed {
			continue
		}
		of := "disk"
		if m.Snapshot != "" {
			of = "snapshot " + m.Snapshot
		}
		p.line("  missing: 0x%x to 0x%x of the %s (%s): %s", m.Offset, m.Offset+m.Length, of, check.ReadableSize(m.Length), m.Why)
	}
	for i, l := range r.Lost {
		if i == mostListed {
			p.line("  … and %d more", len(r.Lost)-i)
			break
		}
		p.line("  lost: %s", check.Escape(l))
	}
	if len(r.Orphans) > 0 {
		n := uint64(0)
		for _, o := range r.Orphans {
			n += o.Length
		}
		p.line("  orphans: %s in %d places of the file hold data that belongs nowhere any more", check.ReadableSize(n), len(r.Orphans))
	}
	switch {
	case r.Complete:
		p.line("  missing: nothing that the file holds")
	case len(r.Missing) > 0:
		p.line("  missing in all: %s", check.ReadableSize(total))
	}
}

func (r *rescueReport) writeNext(p *printer, name string) {
	switch {
	case r.Out != "":
		p.line("%s: written, %s; next: `qemu-img check`, then start the VM with a copy of it", check.Escape(r.Out), r.Result.Verdict)
	case r.InPlace:
		p.line("%s: rebuilt, %s; `qcheck undo` takes it back", name, r.Result.Verdict)
	default:
		p.line("nothing was written; `qcheck rescue %s -o NEW.qcow2` writes the image", name)
	}
}

// printer keeps the first error of many lines.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}
