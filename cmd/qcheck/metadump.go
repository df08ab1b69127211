package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/metadump"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/qcow2"
)

// MetadumpCmd is `qcheck metadump IMAGE OUT`, and `qcheck metadump --restore META IMAGE`.
type MetadumpCmd struct {
	From string `arg:"" name:"image" help:"Image file or block device; with --restore the copy of its metadata."`
	To   string `arg:"" name:"out" help:"The new file; with --restore the image."`

	Anonymize  bool     `help:"Replace the names of files, snapshots and bitmaps; such a copy cannot be put back."`
	Restore    bool     `help:"Put a copy back that was repaired: write what differs into the image, with an undo journal. Refused unless the image is the one that the copy was made of, unchanged since."`
	ForceShare bool     `short:"U" help:"Copy even while another program writes to the image; unflushed changes are not in the copy."`
	Jobs       number   `short:"j" placeholder:"N" help:"Read with N threads (default: one for each processor)."`
	Memory     byteSize `placeholder:"SIZE" help:"Use at most SIZE for counting references (default: half of the machine's memory)."`
	Progress   string   `enum:"auto,always,never" default:"auto" placeholder:"WHEN" help:"Show progress: auto (the default; on a terminal), always or never."`
}

// Examples is shown below the command's help.
func (c *MetadumpCmd) Examples() string {
	return "  qcheck metadump broken.qcow2 broken-meta.qcow2\n  qcheck metadump --anonymize broken.qcow2 broken-meta.qcow2\n" +
		"  qcheck metadump --restore broken-meta.qcow2 broken.qcow2"
}

// recordSuffix is that of the file beside a copy that says what it is a copy of.
const recordSuffix = ".json"

// Run copies, or puts a copy back.
func (c *MetadumpCmd) Run(ctx context.Context, s *streams) error {
	if c.Restore {
		if c.Anonymize || c.ForceShare {
			return &usageError{text: "--restore goes with neither --anonymize nor -U", hint: helpHint("metadump")}
		}
		return c.restore(ctx, s)
	}
	return c.dump(ctx, s)
}

func (c *MetadumpCmd) options(s *streams, o *opened) metadump.Options {
	opts := metadump.Options{Anonymize: c.Anonymize, Jobs: int(c.Jobs), MemoryLimit: int64(c.Memory), Live: o.Live()}
	if opts.MemoryLimit == 0 {
		opts.MemoryLimit = defaultMemory()
	}
	s.progress = newProgressLine(c.Progress, s.err, o.path)
	opts.Progress = s.progress.hook()
	return opts
}

func (c *MetadumpCmd) dump(ctx context.Context, s *streams) (err error) {
	o, err := openImage(s, c.From, c.ForceShare)
	if err != nil {
		return err
	}
	defer o.Close()
	if o.Live() {
		s.warning(check.Escape(c.From) + ": another program writes to the image; unflushed changes are not in the copy, and what changes meanwhile may look broken in it")
	}
	d, err := metadump.Make(ctx, o.File, o.Size(), c.options(s, o))
	s.progress.done()
	if err != nil {
		return fmt.Errorf("%s: %w", check.Escape(c.From), err)
	}
	rec, err := d.Record(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", check.Escape(c.From), err)
	}
	// Never over another file: it may be the only image there is.
	out, err := os.OpenFile(c.To, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			os.Remove(c.To)
		}
	}()
	if err := out.Truncate(d.Size); err != nil {
		return err
	}
	st, err := d.CopyTo(ctx, out)
	if err == nil {
		err = out.Sync()
	}
	if err != nil {
		return err
	}
	if err := writeRecord(c.To+recordSuffix, rec); err != nil {
		return err
	}
	return c.compare(ctx, s, d, out, st)
}

// compare checks the copy, and says what it is good for.
func (c *MetadumpCmd) compare(ctx context.Context, s *streams, d *metadump.Dump, out *os.File, st metadump.Stats) error {
	res, err := metadump.Check(ctx, out, d.Size, metadump.Options{Jobs: int(c.Jobs), MemoryLimit: defaultMemory()})
	if err != nil {
		return fmt.Errorf("%s: %w", check.Escape(c.To), err)
	}
	fmt.Fprintf(s.out, "%s: %s of metadata out of a file of %s; no data of the guest, no keys\n",
		check.Escape(c.To), bytesText(float64(st.Copied)), bytesText(float64(d.Size)))
	const most = 5
	switch diff := metadump.Differences(d.Result, res); {
	case len(diff) == 0:
		fmt.Fprintf(s.out, "a check finds the same in it: %s\n", countText(d.Result))
	default:
		more := ""
		if n := len(diff) - most; n > 0 {
			more = fmt.Sprintf("; and %d more", n)
			diff = diff[:most]
		}
		s.warning("a check does not find all of it in the copy, since bytes that may be the guest's were left out: " + strings.Join(diff, "; ") + more)
	}
	return nil
}

// countText says how much was found.
func countText(r *check.Result) string {
	if len(r.Findings) == 0 {
		return "nothing"
	}
	n := len(r.Findings)
	if n == 1 {
		return "1 finding"
	}
	return fmt.Sprintf("%d findings", n)
}

func writeRecord(path string, rec metadump.Record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}

// restore puts a copy back.
func (c *MetadumpCmd) restore(ctx context.Context, s *streams) error {
	var rec metadump.Record
	b, err := os.ReadFile(c.From + recordSuffix)
	if err != nil {
		return &repairFailure{err: err, hint: "the file that metadump wrote beside the copy says which image it belongs to; without it nothing is put back"}
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return fmt.Errorf("%s: %w", check.Escape(c.From+recordSuffix), err)
	}
	dump, err := imagefile.Open(c.From, imagefile.Options{})
	if err != nil {
		return err
	}
	defer dump.Close()
	o, err := openForRepair(s, c.To)
	if err != nil {
		return err
	}
	defer o.Close()
	places := placesOf(c.To, o.File)
	if err := pending(s, o.repairable(), places); err != nil {
		return err
	}
	if err := o.reopen(); err != nil {
		return err
	}
	var changes []repair.Change
	err = rec.Changes(ctx, o.File, o.Size(), dump, dump.Size(), func(off qcow2.HostOffset, is []byte) {
		changes = append(changes, repair.Change{Offset: off, New: is})
	})
	if err != nil {
		e := &repairFailure{image: c.From, err: err}
		if errors.Is(err, metadump.ErrOther) {
			e.hint = "nothing has been written; a copy goes back only into the image that it was made of, as long as nothing has written to that"
		}
		return e
	}
	if len(changes) == 0 && dump.Size() == o.Size() {
		fmt.Fprintf(s.out, "%s: nothing to put back: the copy is as it was made\n", check.Escape(c.To))
		return nil
	}
	ck := &CheckCmd{}
	opts := check.Options{MemoryLimit: defaultMemory(), NoBacking: true}
	plan, err := repair.MakeFrom(ctx, o.File, o.Size(), changes, dump.Size(), repair.Options{MemoryLimit: opts.MemoryLimit, NoBacking: true, Device: o.IsDevice()})
	if err != nil {
		return fmt.Errorf("%s: %w", check.Escape(c.To), planError(err))
	}
	after, err := ck.apply(ctx, s, o, plan, places, opts)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s: %d bytes put back; now %s; `qcheck undo %[1]s` takes it back\n", check.Escape(c.To), plan.Edits.Bytes(), after.Verdict)
	return nil
}
