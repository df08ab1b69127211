package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// listed is how many findings of one code and structure are written one by one.
const listed = 20

// Human writes reports for people: the verdict in one line, what is wrong in
// groups by structure, the worst first, and in the last line what to type next.
//
// An image without a result gets no line: why it could not be opened is for the
// caller to say, in its own voice.
type Human struct {
	printer
	opts   Options
	images int
	seen   map[check.Verdict]int
	unmet  int    // images that do not meet the requirements
	other  int    // files that are no qcow2 images
	hint   string // for the worst image so far
	worst  int    // its rank
	block  bool   // the last image took more than a line
	last   summary
}

// NewHuman gives a reporter that writes to w.
func NewHuman(w io.Writer, opts Options) *Human {
	return &Human{printer: printer{w: w, width: opts.Width, style: newStyle(opts.Color)},
		opts: opts, seen: make(map[check.Verdict]int)}
}

// severest lists the verdicts, the worst first, as the exit code ranks them.
var severest = []check.Verdict{check.VerdictIncomplete, check.VerdictUnsupported, check.VerdictCorrupt,
	check.VerdictInDoubt, check.VerdictLeaks, check.VerdictWarnings, check.VerdictClean}

// verdictWords say a verdict of some images out of several.
var verdictWords = map[check.Verdict]string{
	check.VerdictIncomplete: "not checked to the end", check.VerdictUnsupported: "not supported", check.VerdictCorrupt: "corrupt",
	check.VerdictInDoubt: "in doubt", check.VerdictLeaks: "with leaks", check.VerdictWarnings: "with warnings", check.VerdictClean: "clean",
}

// Image writes about one image.
func (h *Human) Image(img Image) error {
	h.images++
	r := img.Result
	if r == nil && errors.Is(img.Err, qcow2.ErrNotQcow2) {
		h.other++
		return h.err
	}
	h.seen[img.verdict()]++
	did := img.Repair != nil && img.Repair.changes()
	if !inOrder(&img) {
		h.last.add(rankOf(img.verdict()), h.oneLine(&img))
	} else if img.repaired() {
		h.last.add(0, h.oneLine(&img))
	}
	if r == nil {
		return h.err
	}
	if len(r.Unmet) > 0 {
		h.unmet++
	}
	if h.opts.Quiet {
		if !inOrder(&img) || img.repaired() {
			h.line(h.oneLine(&img))
		}
		return h.err
	}
	shown := slices.DeleteFunc(slices.Clone(problem.Bounded(r.Findings, img.MaxFindings)), func(f problem.Finding) bool { return !h.shows(r, &f) })
	block := len(shown) > 0 || len(r.Unmet) > 0 || r.Verdict != check.VerdictClean || did
	if h.images > 1 && (block || h.block) {
		h.line("")
	}
	h.block = block

	h.headline(&img)
	if r.Provisional {
		h.wrapped("", 0, "Something is writing to this image now, so these findings are provisional: "+
			"they may come from reading it in the middle of a change.", 0)
	}
	for _, u := range firstTexts(r.Unmet, maxReasons) {
		h.wrapped(h.bad.Sprint("requirement not met:")+" ", 21, printable(u), 2)
	}
	h.predict(&r.QEMUOpen)
	code := h.findings(shown)
	h.chain(img.Chain, img.MaxFindings)
	h.live(img.Live)
	h.repair(&img)

	if rank := rankOf(r.Verdict); rank > h.worst { // to find the advice can take a while
		if hint := next(&img, code); hint != "" {
			h.hint, h.worst = hint, rank
		}
	}
	return h.err
}

// shows tells whether a finding is worth a person's time. Notes are not, but
// for the one that breaks the next backup: a bitmap that was not closed. While the
// image is in use that is as it should be.
func (h *Human) shows(r *check.Result, f *problem.Finding) bool {
	return f.Severity != problem.Note || h.opts.Verbose || f.Code == problem.BitmapInUse && !r.Provisional
}

func (h *Human) headline(img *Image) {
	r := img.Result
	text := string(r.Verdict)
	switch r.Verdict {
	case check.VerdictWarnings:
		text = "sound, but" // no word of a verdict: the count says "warning" again
	case check.VerdictInDoubt:
		text = "in doubt"
	}
	t := r.Totals
	var parts []string
	if r.Verdict == check.VerdictUnsupported {
		// What is new is not called corrupt: the finding speaks for itself.
		t, parts = apart(r.Findings)
	}
	parts = append(parts, totals(t, img.ClusterSize)...)
	if t := r.Truncation; t != nil {
		parts = slices.Insert(parts, 0, fmt.Sprintf("the file ends after %s of %s", size(t.Size), size(t.Former)))
	}
	if img.Err != nil {
		parts = slices.Insert(parts, 0, printable(img.Err.Error()))
	}
	line := h.bold.Sprint(printable(img.Name)+":") + " "
	if img.repaired() {
		line += "repaired: " + settled(r.Findings, img.ClusterSize) + "; now "
	}
	line += h.verdict(r.Verdict).Sprint(text)
	switch {
	case r.Verdict == check.VerdictClean:
		h.wrapped(line+" ", utf8.RuneCountInString(printable(img.Name))+len(": clean "), strings.TrimSpace(figures(r)), 4)
		return
	case r.Verdict == check.VerdictWarnings:
		line += " "
	case len(parts) > 0:
		line += ": "
	}
	h.wrapped(line, utf8.RuneCountInString(printable(img.Name))+2+len(text)+2, strings.Join(parts, ", "), 4)
	if h.opts.Verbose {
		h.wrapped("figures ", len("figures "), strings.TrimSpace(figures(r)), 4)
	}
}

// apart takes out of the findings those of a version or a feature that is not
// known, words the first of them, and counts the others.
func apart(fs []problem.Finding) (others problem.Totals, messages []string) {
	rest := slices.DeleteFunc(slices.Clone(fs), func(f problem.Finding) bool {
		unknown := f.Code.Unsupported()
		if unknown {
			messages = append(messages, printable(f.Text()))
		}
		return unknown
	})
	if n := len(messages); n > 2 {
		messages = append(messages[:1], fmt.Sprintf("and %d more like it", n-1))
	}
	return problem.Count(rest), messages
}

// totals puts totals in words; what is zero is left out. Notes are not counted:
// they are nothing to worry about.
func totals(t problem.Totals, clusterSize uint64) (parts []string) {
	if t.Errors > 0 {
		parts = append(parts, plural(t.Errors, "part could not be looked at", "parts could not be looked at"))
	}
	if t.Corruptions > 0 {
		parts = append(parts, plural(t.Corruptions, "corruption", "corruptions"))
	}
	clusters := func(n uint64, one, many string) {
		if n == 0 {
			return
		}
		s := plural(n, one, many)
		if clusterSize > 0 && n <= (1<<63)/clusterSize {
			s += " (" + size(n*clusterSize) + ")"
		}
		parts = append(parts, s)
	}
	clusters(t.InDoubt, "cluster without a known owner", "clusters without a known owner")
	clusters(t.Leaks-t.InDoubt, "leaked cluster", "leaked clusters")
	if t.Warnings > 0 {
		parts = append(parts, plural(t.Warnings, "warning", "warnings"))
	}
	return parts
}

// settled counts in words what a repair has settled.
func settled(fs []problem.Finding, clusterSize uint64) string {
	var fixed []problem.Finding
	for _, f := range fs {
		if f.Fixed {
			f.Fixed = false
			fixed = append(fixed, f)
		}
	}
	t := problem.Count(fixed)
	parts := totals(t, clusterSize)
	if len(parts) == 0 && t.Notes > 0 {
		parts = append(parts, plural(t.Notes, "note", "notes"))
	}
	if len(parts) == 0 {
		return "nothing that was reported"
	}
	return strings.Join(parts, ", ")
}

// figures writes the figures that `qemu-img check` ends with.
func figures(r *check.Result) string {
	s := fmt.Sprintf(" (%d/%d clusters = %s allocated", r.AllocatedClusters, r.TotalClusters,
		percent(r.AllocatedClusters, r.TotalClusters))
	if r.AllocatedClusters > 0 {
		s += fmt.Sprintf(", %s fragmented, %s compressed",
			percent(r.FragmentedClusters, r.AllocatedClusters), percent(r.CompressedClusters, r.AllocatedClusters))
	}
	return s + fmt.Sprintf("; image end 0x%x)", r.ImageEndOffset)
}

// predict says what QEMU will do with the image where that is not plainly to
// open it.
func (h *Human) predict(q *check.QEMUOpen) {
	text, reasons := openText(q), q.Reasons
	switch {
	case text == "" && h.opts.Verbose && len(reasons) > 0:
		text = openWords[check.OpenOK] // and does something to it as well
		if len(reasons) == 1 {
			text += ": " + printable(reasons[0])
		}
	case text == "":
		return
	case len(reasons) == 1:
		text += ": " + soleReason(reasons)
	}
	h.wrapped(h.bad.Sprint("QEMU")+" ", 5, text, 2)
	if len(reasons) > 1 {
		for _, reason := range firstTexts(reasons, listed) {
			h.wrapped("  - ", 4, printable(reason), 4)
		}
	}
}

// soleReason gives the one reason of a prediction. That it concerns writing has been
// said before it.
func soleReason(reasons []string) string {
	return printable(strings.TrimPrefix(reasons[0], "read-write: "))
}

var openWords = map[check.OpenOutcome]string{
	check.OpenOK:           "opens it",
	check.OpenRefused:      "refuses to open it",
	check.OpenCrash:        "crashes when it opens it",
	check.OpenDropsBitmaps: "loses every bitmap when it opens it",
}

// openText puts a prediction in words; it is empty when QEMU opens the image,
// or when nothing was predicted.
func openText(q *check.QEMUOpen) string {
	ro, rw := openWords[q.ReadOnly], openWords[q.ReadWrite]
	switch {
	case q.ReadOnly == check.OpenOK && q.ReadWrite == check.OpenOK, ro == "" || rw == "":
		return ""
	case ro == rw:
		return ro
	}
	return fmt.Sprintf("%s read-only, but %s read-write", ro, rw)
}

// findings writes the findings in groups by structure and returns the code of
// the worst.
func (h *Human) findings(fs []problem.Finding) problem.Code {
	place := make(map[problem.Structure]int)
	for i, s := range problem.Structures() {
		place[s] = i
	}
	row := make(map[problem.Code]int)
	for i, r := range problem.Catalog() {
		row[r.Code] = i
	}
	// The passes' order is kept within a code: it is that of the file.
	slices.SortStableFunc(fs, func(a, b problem.Finding) int {
		return cmp.Or(
			cmp.Compare(place[a.Structure], place[b.Structure]),
			cmp.Compare(b.Severity, a.Severity),
			cmp.Compare(row[a.Code], row[b.Code]),
			cmp.Compare(fixedLast(&a), fixedLast(&b)))
	})
	var worst problem.Severity
	var code problem.Code
	for i := 0; i < len(fs); {
		if i == 0 || fs[i].Structure != fs[i-1].Structure {
			h.line("")
			h.line(h.bold.Sprint(structureTitle(fs[i].Structure)))
		}
		if fs[i].Severity > worst && !fs[i].Fixed {
			worst, code = fs[i].Severity, fs[i].Code
		}
		n := i + 1
		for n < len(fs) && fs[n].Structure == fs[i].Structure && fs[n].Severity == fs[i].Severity && fs[n].Code == fs[i].Code &&
			fs[n].Fixed == fs[i].Fixed {
			n++
		}
		h.sameCode(fs[i:n])
		i = n
	}
	return code
}

// fixedLast puts what is settled behind what is left.
func fixedLast(f *problem.Finding) int {
	if f.Fixed {
		return 1
	}
	return 0
}

// sameCode writes findings of one code, and sums up those that are too many.
func (h *Human) sameCode(fs []problem.Finding) {
	var left, written uint64
	for i := range fs {
		if f := &fs[i]; f.Unlisted || !h.opts.Verbose && written >= listed {
			left += f.Count
		} else {
			h.finding(f)
			written++
		}
	}
	if left == 0 {
		return
	}
	more := "more"
	if written == 0 {
		more = "of these"
	}
	if fs[0].Fixed {
		more += ", repaired"
	}
	r, _ := problem.Lookup(fs[0].Code)
	h.wrapped("  "+h.faint.Sprintf("%s %v:", fs[0].Code, fs[0].Severity)+" ",
		len(fs[0].Code)+len(fs[0].Severity.String())+5, fmt.Sprintf("%d %s, not listed: %s", left, more, r.Title), 9)
}

var repairWords = map[problem.Repair]string{
	problem.RepairNone:     "no repair",
	problem.RepairSafe:     "repair: safe",
	problem.RepairPolicy:   "repair: as the bitmap policy says",
	problem.RepairLossy:    "repair: loses data",
	problem.RepairReattach: "repair: by reattaching",
}

func (h *Human) finding(f *problem.Finding) {
	h.wrapped("  "+h.severity(f.Severity).Sprintf("%s %v:", f.Code, f.Severity)+" ",
		len(f.Code)+len(f.Severity.String())+5, printable(f.Text()), 9)

	message := f.Text()
	var where []string
	add := func(text string) { // unless the message has said so
		if text != "" && !strings.Contains(message, text) {
			where = append(where, text)
		}
	}
	if f.Snapshot != "" {
		add("snapshot " + check.Shorten(f.Snapshot))
	}
	if f.Bitmap != "" {
		add("bitmap " + check.Shorten(f.Bitmap))
	}
	add(f.Path.String())
	if f.GuestOffset != nil {
		where = append(where, guestText(uint64(*f.GuestOffset)))
	}
	if f.Extent.Length > 0 {
		where = append(where, fmt.Sprintf("at %v, %s", f.Extent.Offset, plural(f.Extent.Length, "byte", "bytes")))
	}
	if f.Count > 1 {
		where = append(where, fmt.Sprintf("counts as %d", f.Count))
	}
	parts := []string{strings.Join(where, ", ")}
	switch {
	case !f.Value.IsZero() && !f.Expected.IsZero():
		parts = append(parts, fmt.Sprintf("is %s, should be %s", f.Value, f.Expected))
	case !f.Value.IsZero():
		parts = append(parts, "is "+f.Value.String())
	case !f.Expected.IsZero():
		parts = append(parts, "should be "+f.Expected.String())
	}
	if f.Fixed {
		parts = append(parts, "repaired")
	} else if f.Severity > problem.Note {
		parts = append(parts, repairWords[f.Repair])
	}
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	if len(parts) > 0 {
		h.wrapped("         ", 9, printable(strings.Join(parts, "; ")), 9)
	}
}

// Close sums up several images, and says what to type next.
func (h *Human) Close() error {
	if h.images > 1 && !h.opts.Quiet {
		var parts []string
		for _, v := range severest {
			if n := h.seen[v]; n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", n, verdictWords[v]))
			}
		}
		if h.unmet > 0 {
			parts = append(parts, fmt.Sprintf("%d not as required", h.unmet))
		}
		if h.other > 0 {
			parts = append(parts, fmt.Sprintf("%d not qcow2", h.other))
		}
		h.line("")
		h.linef("%d images: %s", h.images, strings.Join(parts, ", "))
		for _, l := range h.last.lines {
			h.line("  " + l.text)
		}
		h.leftOut(h.last.more, "images like these")
	}
	if h.hint != "" && !h.opts.Quiet {
		h.line("")
		h.wrapped(h.bold.Sprint("next:")+" ", 6, h.hint, 6)
	}
	return h.err
}

// guestText words a place of the disk: in hex, and readable where that helps.
func guestText(off uint64) string {
	s := fmt.Sprintf("guest offset 0x%x", off)
	if off >= 1<<20 {
		s += " (" + size(off) + ")"
	}
	return s
}
