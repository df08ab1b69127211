package undofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Where a file cannot carry a note of its own, a repair that is under way is registered
// in a folder, by the numbers of the image's device and inode: a symbolic link that leads
// to the journal. Those numbers hold until the machine starts again, or longer.

// Register notes where the journal of a repair is that begins now.
func Register(device, inode uint64, journal string) error {
	name := registered(device, inode)
	if name == "" {
		return errors.ErrUnsupported
	}
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return cause(err)
	}
	if err := Unregister(device, inode); err != nil {
		return err
	}
	if err := os.Symlink(journal, name); err != nil {
		return cause(err)
	}
	return syncDir(dir)
}

// Unregister takes that note away, if there is one.
func Unregister(device, inode uint64) error {
	name := registered(device, inode)
	if name == "" {
		return nil
	}
	if info, err := os.Lstat(name); err != nil || info.Mode().Type() != fs.ModeSymlink {
		return nil // there is nothing, or nothing of ours
	}
	return cause(os.Remove(name))
}

// Registered gives the journal that a file was registered with, or "".
func Registered(device, inode uint64) string {
	name := registered(device, inode)
	if name == "" || trustFolder(name) != nil {
		return ""
	}
	journal, err := os.Readlink(name)
	if err != nil || !filepath.IsAbs(journal) {
		return ""
	}
	return journal
}

func registered(device, inode uint64) string {
	dir := registerDir()
	if dir == "" || device == 0 && inode == 0 {
		return ""
	}
	return filepath.Join(dir, fmt.Sprintf("pending-%x-%x", device, inode))
}

// registerDir is the folder for devices' journals where the user can write to it, else
// one of the user's own.
func registerDir() string {
	if os.Getenv(DirEnv) != "" || os.Geteuid() == 0 {
		return stateDir()
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "qcheck")
	}
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) {
		return ""
	}
	return filepath.Join(home, ".local", "state", "qcheck")
}
