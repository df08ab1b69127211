package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/undofile"
)

// UndoCmd is `qcheck undo IMAGE`.
type UndoCmd struct {
	Image string `arg:"" help:"Image file or block device."`
	Undo  string `placeholder:"FILE" help:"The undo journal, if it was kept elsewhere than in IMAGE.qcheck-undo."`
}

// Examples is shown below the command's help.
func (c *UndoCmd) Examples() string {
	return "  qcheck undo disk.qcow2\n  qcheck undo disk.qcow2 --undo /var/tmp/disk.undo"
}

// Run takes the last repair back.
func (c *UndoCmd) Run(s *streams) error {
	// What a repair was interrupted in need not be an image that can be read, so the
	// file is not looked into.
	f, err := imagefile.Open(c.Image, imagefile.Options{Write: true})
	if err != nil {
		return err
	}
	defer f.Close()
	if f.LockState() != imagefile.LockTaken {
		s.warning(check.Escape(c.Image) + ": there are no image locks here; make sure that no VM uses the image")
	}
	p := undofile.Default(c.Image, f.IsDevice())
	if c.Undo != "" {
		p = &undofile.Place{Path: c.Undo}
	}
	rec, err := repair.TakeBack(f, p)
	if errors.Is(err, fs.ErrNotExist) {
		hint := "if the repair was made with --undo, name the same file here"
		if c.Undo != "" {
			hint = ""
		}
		return &repairFailure{image: c.Image, hint: hint,
			err: fmt.Errorf("there is no repair to take back: there is no undo journal %s", check.Escape(p.Path))}
	}
	if err != nil {
		return recoverError(c.Image, p, err)
	}
	if rec.Left != nil {
		s.warning(fmt.Sprintf("%s is of no more use, and cannot be removed: %v", check.Escape(p.Path), rec.Left))
	}
	text := "the repair of " + rec.Found.Time.Format("2006-01-02 15:04:05") + " has been taken back"
	switch {
	case rec.Action == repair.RecoveredDropped:
		text = "nothing had been written by the repair that was interrupted"
	case rec.Found.Phase == repair.PhaseOpen:
		text = "the repair that was interrupted has been rolled back"
	}
	_, err = fmt.Fprintf(s.out, "%s: %s; every byte is as before\n", check.Escape(c.Image), text)
	return err
}
