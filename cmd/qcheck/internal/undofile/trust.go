package undofile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// UntrustedError says why a file is not followed as a journal: somebody who may not
// write to the image could have put it there.
type UntrustedError struct{ Reason, Hint string }

func (e *UntrustedError) Error() string { return e.Reason }

// trustFile holds that a journal can only come from somebody who may write to the image
// in any case: from the caller or the image's owner.
func trustFile(journal, image fs.FileInfo) error {
	owner, known := ownerOf(journal)
	if !known {
		return nil // this system knows no owners
	}
	if imageOwner, known := ownerOf(image); owner != os.Geteuid() && (!known || owner != imageOwner) {
		return &UntrustedError{
			Reason: fmt.Sprintf("it belongs to user %d, who neither runs this command nor owns the image, so it is not followed", owner),
			Hint:   "if it is the journal of a repair that you know of, run qcheck as that user, or give the journal to the image's owner with chown",
		}
	}
	if mode := journal.Mode().Perm(); mode&0o022 != 0 {
		return &UntrustedError{
			Reason: fmt.Sprintf("others may write to it (mode %04o), so it is not followed", mode),
			Hint:   "if you know that nobody has, take that right away with chmod go-w, and run the same command again",
		}
	}
	return nil
}

// trustFolder holds that not everybody may rename and remove what others have in a
// journal's folder.
func trustFolder(path string) error {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil {
		return cause(err)
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return &UntrustedError{
			Reason: "everybody may replace files in its folder, so an undo journal there is not followed",
			Hint:   "take that right away with chmod o-w (or chmod +t), or keep the undo journal in another folder with --undo FILE",
		}
	}
	return nil
}

// ownerOf gives the user who owns a file, where that is known.
func ownerOf(info fs.FileInfo) (uid int, known bool) {
	if info == nil {
		return 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
