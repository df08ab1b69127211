package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/qcheck/qcheck/check/repair"
)

// RepairFlags are the flags of a check that repairs, or shows what a repair would do.
type RepairFlags struct {
	Repair         repairScope  `short:"r" group:"repair" placeholder:"[=SCOPE]" help:"Repair what can be repaired without losing data, and keep an undo journal. SCOPE: all (without it), leaks, bitmaps or refcounts. It can be the next word as well: -r leaks; a file of such a name is ./leaks. Of several images none is repaired unless all can be opened."`
	DryRun         bool         `short:"n" group:"repair" help:"Show what -r would do, and write nothing."`
	BitmapPolicy   bitmapPolicy `group:"repair" placeholder:"POLICY" help:"What becomes of a bitmap that cannot be trusted: mark (inconsistent, without this flag), all-dirty (the next incremental backup copies everything) or remove."`
	AllowDataLoss  bool         `group:"repair" help:"Also repair what cannot be repaired without losing data; says what is lost."`
	Reattach       bool         `group:"repair" help:"Put lost tables and snapshots back where the evidence allows one place only."`
	FreeUnowned    bool         `group:"repair" help:"Free clusters that nothing refers to although a damaged structure may own them (REF009, MAP022): their data is lost for good. -n says which, and how many bytes."`
	CompactBitmaps bool         `group:"repair" help:"Store no bitmap data that is all zeros or all ones."`
	Undo           *string      `group:"repair" placeholder:"FILE" help:"Where to keep the undo journal (without this flag: IMAGE.qcheck-undo, or a file in /var/lib/qcheck for a block device)."`
	NoUndo         bool         `group:"repair" help:"Keep no undo journal: the repair cannot be taken back, and a crash in the middle of it may do damage."`
}

// repairScope is what to repair; empty where -r is not given. As a flag it takes a
// value behind an equals sign, or one of the scopes as the next word, as `qemu-img
// check` does. Any other word that follows is an image.
type repairScope repair.Scope

// IsBool tells the parser that no value has to follow.
func (*repairScope) IsBool() bool { return true }

var scopes = []repair.Scope{repair.ScopeAll, repair.ScopeLeaks, repair.ScopeBitmaps, repair.ScopeRefcounts}

// isScope tells whether a word names a scope.
func isScope(word string) bool { return slices.Contains(scopes, repair.Scope(word)) }

// Decode takes the value from the command line.
func (r *repairScope) Decode(ctx *kong.DecodeContext) error {
	*r = repairScope(repair.ScopeAll)
	t := ctx.Scan.Peek()
	value, isText := t.Value.(string)
	switch {
	case t.Type == kong.UntypedToken && isText && isScope(value):
	case t.Type == kong.FlagValueToken:
	case t.Type == kong.ShortFlagTailToken && strings.HasPrefix(value, "="):
		value = value[1:]
	default:
		return nil
	}
	ctx.Scan.Pop()
	if !isText || !isScope(value) {
		return fmt.Errorf("%q is none of all, leaks, bitmaps, refcounts", value)
	}
	*r = repairScope(value)
	return nil
}

// bitmapPolicy is empty where none is given.
type bitmapPolicy repair.BitmapPolicy

// UnmarshalText takes the value from the command line.
func (p *bitmapPolicy) UnmarshalText(text []byte) error {
	switch v := repair.BitmapPolicy(text); v {
	case repair.PolicyMark, repair.PolicyAllDirty, repair.PolicyRemove:
		*p = bitmapPolicy(v)
		return nil
	}
	return fmt.Errorf("%q is none of mark, all-dirty, remove", text)
}

// asked tells that a repair, or what it would do, is asked for.
func (r *RepairFlags) asked() bool { return r.Repair != "" || r.DryRun }

// how gives the flags that say how to repair, as they can be typed.
func (r *RepairFlags) how() (flags []string) {
	if r.Repair != "" && repair.Scope(r.Repair) != repair.ScopeAll {
		flags = append(flags, "--repair="+string(r.Repair))
	}
	if r.BitmapPolicy != "" {
		flags = append(flags, "--bitmap-policy="+string(r.BitmapPolicy))
	}
	for _, f := range []struct {
		name string
		on   bool
	}{{"--allow-data-loss", r.AllowDataLoss}, {"--reattach", r.Reattach}, {"--free-unowned", r.FreeUnowned}, {"--compact-bitmaps", r.CompactBitmaps}} {
		if f.on {
			flags = append(flags, f.name)
		}
	}
	return flags
}

// validate refuses what makes no sense together.
func (c *CheckCmd) validateRepair() error {
	r := &c.RepairFlags
	wrong := func(format string, args ...any) error {
		return &usageError{text: fmt.Sprintf(format, args...), hint: helpHint("")}
	}
	if !r.asked() {
		flags := r.how()
		if r.Undo != nil {
			flags = append(flags, "--undo")
		}
		if r.NoUndo {
			flags = append(flags, "--no-undo")
		}
		if len(flags) == 0 {
			return nil
		}
		flag, _, _ := strings.Cut(flags[0], "=")
		if flag == "--undo" {
			return &usageError{text: "--undo goes with -r: it says where the undo journal is kept",
				hint: "`qcheck undo IMAGE` takes a repair back"}
		}
		return wrong("%s says how to repair, so it goes with -r or -n", flag)
	}
	switch {
	case c.ForceShare:
		return wrong("-U and a repair exclude each other: an image that others write to is never repaired")
	case r.Undo != nil && r.NoUndo:
		return wrong("--undo and --no-undo exclude each other")
	case r.Undo != nil && *r.Undo == "":
		return wrong("--undo: a value is missing")
	case r.Undo != nil && (len(c.Images) > 1 || len(c.FilesFrom) > 0):
		return wrong("--undo names one file, so it goes with one image; without it each image has a journal of its own")
	case repair.Scope(r.Repair) == repair.ScopeLeaks || repair.Scope(r.Repair) == repair.ScopeRefcounts:
		for _, f := range r.how() {
			if flag, _, _ := strings.Cut(f, "="); flag == "--bitmap-policy" || flag == "--compact-bitmaps" {
				return wrong("%s concerns bitmaps, which --repair=%s leaves alone", flag, r.Repair)
			}
		}
	}
	return nil
}
