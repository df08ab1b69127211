package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/imagefile"
	"github.com/qcheck/qcheck/cmd/qcheck/internal/undofile"
)

// dying is an image that can be written to only so many times.
type dying struct {
	repairable
	writes *int
}

func (d dying) WriteAt(p []byte, off int64) (int, error) {
	if *d.writes--; *d.writes < 0 {
		return 0, syscall.EIO
	}
	return d.repairable.WriteAt(p, off)
}

// halfRepaired interrupts the repair of an image after some writes.
func halfRepaired(t *testing.T, path string, c *CheckCmd) {
	t.Helper()
	s := &streams{out: os.Stdout, err: os.Stderr, told: make(map[string]bool)}
	c.Repair, c.MaxFindings = repairScope(repair.ScopeAll), 1000
	o, err := openForRepair(s, path)
	require.NoError(t, err)
	defer o.Close()
	require.NoError(t, o.reopen())
	places := c.undoPlaces(path, o.File)
	plan, err := c.makePlan(t.Context(), o, check.Options{})
	require.NoError(t, err)
	writes := 2
	_, err = repair.Apply(t.Context(), dying{o.repairable(), &writes}, plan, places.keep, repair.ApplyOptions{})
	var failed *repair.RollbackFailedError
	require.ErrorAs(t, err, &failed)
	places.settle(err)
}

// noteOf is what an image says of an interrupted repair.
func noteOf(t *testing.T, path string) string {
	t.Helper()
	f, err := imagefile.Open(path, imagefile.Options{ForceShare: true})
	require.NoError(t, err)
	defer f.Close()
	note, err := f.Note()
	require.NoError(t, err)
	return note
}

func setNote(t *testing.T, path, note string) {
	t.Helper()
	f, err := imagefile.Open(path, imagefile.Options{Write: true})
	require.NoError(t, err)
	defer f.Close()
	if err := f.SetNote(note); err != nil {
		t.Skipf("SKIPPED, NOT TESTED with notes: this file system has none: %v", err)
	}
}

// needsNotes skips a test where files cannot carry notes.
func needsNotes(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "note")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	setNote(t, path, "x")
	require.NoError(t, os.Remove(path))
}

// A repair that was interrupted is seen, and brought to an end, by whatever name the
// image has: through a hard link, a symbolic one, when it was moved, and where the
// journal was kept in another place.
func TestInterruptedByAnotherName(t *testing.T) {
	t.Setenv(undofile.DirEnv, filepath.Join(t.TempDir(), "state"))
	for _, registered := range []bool{false, true} { // notes, or the register
		for name, rename := range map[string]func(t *testing.T, path, other string){
			"hard link":     func(t *testing.T, path, other string) { require.NoError(t, os.Link(path, other)) },
			"symbolic link": func(t *testing.T, path, other string) { require.NoError(t, os.Symlink(path, other)) },
			"moved":         func(t *testing.T, path, other string) { require.NoError(t, os.Rename(path, other)) },
			"same":          nil,
		} {
			for _, named := range []bool{false, true} {
				for _, verb := range []string{"undo", "-r"} {
					t.Run(fmt.Sprintf("%s/registered %v/named %v/%s", name, registered, named, verb), func(t *testing.T) {
						path, dir := sample(t, 1), t.TempDir()
						if !registered {
							needsNotes(t, dir)
						}
						before := contentOf(t, path)
						cmd, journal := &CheckCmd{}, path+undofile.Suffix
						if named {
							journal = filepath.Join(dir, "u")
							cmd.Undo = &journal
						}
						halfRepaired(t, path, cmd)
						require.FileExists(t, journal)
						half := contentOf(t, path)
						require.NotEqual(t, before, half)
						if registered {
							f, err := imagefile.Open(path, imagefile.Options{Write: true})
							require.NoError(t, err)
							require.NoError(t, f.ClearNote())
							device, inode := f.ID()
							require.NoError(t, undofile.Register(device, inode, journal))
							f.Close()
						}
						other := path
						if rename != nil {
							other = filepath.Join(dir, "other.qcow2")
							rename(t, path, other)
						}

						code, out, errs := runIn(other)
						assert.Equal(t, 1, code, "%s", out)
						assert.Empty(t, out)
						assert.Regexp(t, `^qcheck: error: .*interrupted.*\nqcheck: hint: .*`+regexp.QuoteMeta(journal), errs)
						_, _, errs = runIn("info", other)
						assert.Contains(t, errs, "interrupted")
						assert.Equal(t, half, contentOf(t, other))
						_, out, _ = runIn("undo", "--list", other)
						assert.Regexp(t, `interrupted .* yes`, out)
						code, _, errs = runIn("undo", "--forget", other)
						assert.Equal(t, 1, code)
						assert.Contains(t, errs, "interrupted")
						require.FileExists(t, journal)

						code, _, errs = runIn(verb, other)
						require.Zero(t, code, "%s", errs)
						if verb == "undo" || journal != path+undofile.Suffix || other != path && name != "symbolic link" {
							require.NoFileExists(t, journal)
						}
						assert.Empty(t, noteOf(t, other))
						if verb == "-r" {
							assert.Contains(t, errs, "rolled back first")
							code, _, errs = runIn("undo", other)
							require.Zero(t, code, "%s", errs)
						}
						assert.Equal(t, before, contentOf(t, other))
						list, err := os.ReadDir(os.Getenv(undofile.DirEnv))
						assert.True(t, err != nil || len(list) == 0)
					})
				}
			}
		}
	}
}

// A copy of a half-repaired image, made with all that belongs to the file, does not use up
// the journal of its original.
func TestCopyOfAHalfRepairedImage(t *testing.T) {
	path, dir := sample(t, 1), t.TempDir()
	needsNotes(t, dir)
	before := contentOf(t, path)
	halfRepaired(t, path, &CheckCmd{})
	half := contentOf(t, path)
	journal := path + undofile.Suffix
	duplicate := filepath.Join(dir, "copy.qcow2")
	copySparse(t, path, duplicate)
	setNote(t, duplicate, noteOf(t, path))
	for _, args := range [][]string{{duplicate}, {"-r", duplicate}, {"undo", duplicate}, {"-r", "--undo", journal, duplicate}, {"undo", "--undo", journal, duplicate}} {
		code, _, errs := runIn(args...)
		assert.Equal(t, 1, code, "%v", args)
		assert.Regexp(t, `^qcheck: error: .*copy.*\nqcheck: hint: copy the journal too`, errs, "%v", args)
		assert.Equal(t, half, contentOf(t, duplicate))
		require.FileExists(t, journal)
	}
	// A stranger's image must not make us open files.
	_, _, errs := runIn("--untrusted", duplicate)
	assert.NotContains(t, errs, "copy")
	copySparse(t, journal, duplicate+undofile.Suffix)
	require.NoError(t, os.Chmod(duplicate+undofile.Suffix, 0o600))
	for _, p := range []string{duplicate, path} {
		code, _, errs := runIn("undo", p)
		require.Zero(t, code, "%s", errs)
		assert.Equal(t, before, contentOf(t, p))
	}
}

// The journal is gone: that is said, and the image is checked, and repaired, as it is.
func TestJournalThatIsGone(t *testing.T) {
	path := sample(t, 1)
	needsNotes(t, t.TempDir())
	halfRepaired(t, path, &CheckCmd{})
	moved := filepath.Join(t.TempDir(), "u")
	require.NoError(t, os.Rename(path+undofile.Suffix, moved))
	code, _, errs := runIn(path)
	assert.Equal(t, 2, code)
	assert.Regexp(t, `^qcheck: warning: .*not there any more.*--undo FILE`, errs)
	half := contentOf(t, path)
	code, _, errs = runIn("-r", path)
	assert.Contains(t, errs, "not there any more", "%d", code)
	assert.Empty(t, noteOf(t, path))
	code, _, errs = runIn(path)
	assert.Zero(t, code, "%s", errs)
	code, _, errs = runIn("undo", path)
	require.Zero(t, code, "%s", errs)
	require.Equal(t, half, contentOf(t, path))
	code, _, errs = runIn("undo", "--undo", moved, path)
	require.Zero(t, code, "%s", errs)
}

// Another file takes the image's name while it is repaired: neither of the two is written
// to, or what was begun ends in the file that it began in.
func TestRenamedOver(t *testing.T) {
	s := &streams{out: os.Stdout, err: os.Stderr, told: make(map[string]bool)}
	for _, when := range []string{"before", "publish", "verify"} {
		path, other := sample(t, 1), sample(t, 3)
		old := filepath.Join(filepath.Dir(path), "old.qcow2")
		require.NoError(t, os.Link(path, old))
		before, otherBefore := contentOf(t, path), contentOf(t, other)
		c := &CheckCmd{MaxFindings: 1000}
		c.Repair = repairScope(repair.ScopeAll)
		o, err := openForRepair(s, path)
		require.NoError(t, err)
		require.NoError(t, o.reopen())
		places := c.undoPlaces(path, o.File)
		plan, err := c.makePlan(t.Context(), o, check.Options{})
		require.NoError(t, err)
		replace := func() { require.NoError(t, os.Rename(other, path)) }
		opts := check.Options{}
		announce := places.keep.Announce
		switch when {
		case "before":
			replace()
		case "publish":
			places.keep.Announce = func() error { replace(); return announce() }
		case "verify":
			once := false
			opts.Progress = func(check.Progress) {
				if !once {
					once = true
					replace()
				}
			}
		}
		_, err = c.apply(t.Context(), s, o, plan, places, opts)
		o.Close()
		require.Error(t, err, when)
		assert.Equal(t, otherBefore, contentOf(t, path), when)
		code, _, errs := runIn(path)
		assert.Equal(t, 2, code, "%s: the new file is not said to be half-repaired: %s", when, errs)
		if when != "verify" {
			assert.Contains(t, err.Error(), "nothing has been written")
			assert.Equal(t, before, contentOf(t, old))
			assert.NoFileExists(t, path+undofile.Suffix)
			assert.Empty(t, noteOf(t, old))
			continue
		}
		assert.Contains(t, err.Error(), "the one that had the name before")
		code, _, errs = runIn(old)
		assert.Zero(t, code, "%s", errs)
		// The journal of the file that was repaired is beside the new one, which it
		// does not fit.
		code, _, _ = runIn("undo", path)
		assert.Equal(t, 1, code)
		assert.Equal(t, otherBefore, contentOf(t, path))
		code, _, errs = runIn("undo", "--undo", path+undofile.Suffix, old)
		assert.Zero(t, code, "%s", errs)
		assert.Equal(t, before, contentOf(t, old))
	}
}

// A device has as many names as one likes. By each of them the interrupted repair is seen.
func TestInterruptedOnADeviceOfTwoNames(t *testing.T) {
	t.Setenv(undofile.DirEnv, filepath.Join(t.TempDir(), "undo"))
	path := sample(t, 1)
	before := contentOf(t, path)
	device := loopDevice(t, path)
	dir := t.TempDir()
	link, node := filepath.Join(dir, "link"), filepath.Join(dir, "node")
	require.NoError(t, os.Symlink(device, link))
	var st unix.Stat_t
	require.NoError(t, unix.Stat(device, &st))
	require.NoError(t, unix.Mknod(node, unix.S_IFBLK|0o600, int(st.Rdev)))
	halfRepaired(t, device, &CheckCmd{})
	for _, name := range []string{device, link, node} {
		f, err := imagefile.Open(name, imagefile.Options{ForceShare: true})
		require.NoError(t, err)
		number, inode := f.ID()
		f.Close()
		assert.EqualValues(t, st.Rdev, number)
		assert.Zero(t, inode)
		code, out, errs := runIn(name)
		assert.Equal(t, 1, code, "%s", name)
		assert.Empty(t, out)
		assert.Regexp(t, `^qcheck: error: .*interrupted`, errs)
	}
	code, _, errs := runIn("-r", node)
	require.Zero(t, code, "%s", errs)
	assert.Contains(t, errs, "rolled back first")
	code, _, errs = runIn(device)
	assert.Zero(t, code, "%s", errs)
	code, _, errs = runIn("undo", link)
	require.Zero(t, code, "%s", errs)
	flush(t, device)
	assert.Equal(t, before, contentOf(t, path))
	list, err := os.ReadDir(os.Getenv(undofile.DirEnv))
	require.NoError(t, err)
	assert.Empty(t, list)
}
