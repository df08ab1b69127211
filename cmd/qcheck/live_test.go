package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
)

// newImage makes an image with qemu-img create's further arguments.
func newImage(t *testing.T, size string, args ...string) string {
	t.Helper()
	qemutest.Require(t, qemutest.QemuDaemon)
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	qemutest.Img(t, append(append([]string{"create", "-q", "-f", "qcow2"}, args...), path, size)...)
	return path
}

// checked is what tests look at in the JSON of a check.
type checked struct {
	Filename    string `json:"filename"`
	Verdict     string `json:"verdict"`
	Error       string `json:"error"`
	CheckErrors int    `json:"check-errors"`
	Provisional bool   `json:"provisional"`
	Findings    []struct {
		Code        string `json:"code"`
		Severity    string `json:"severity"`
		Message     string `json:"message"`
		GuestOffset int    `json:"guest-offset"`
		Count       int    `json:"count"`
	} `json:"findings"`
}

// checkJSON checks an image that can be opened or not, and gives the exit code.
func checkJSON(t *testing.T, args ...string) (checked, int) {
	t.Helper()
	code, out, errs := runIn(append([]string{"-o", "json"}, args...)...)
	var c checked
	require.NoError(t, json.Unmarshal([]byte(out), &c), "%s%s", out, errs)
	return c, code
}

// An image that a QEMU has open for writing is not checked unless that is asked
// for, and then the report says what it is worth.
func TestImageOfARunningQEMU(t *testing.T) {
	t.Parallel()
	path := newImage(t, "16M")
	qemutest.AddImageBitmap(t, path, "b0", 65536, false)
	d := qemutest.Serve(t, path)
	d.IO("write -P 1 0 1M")

	for _, args := range [][]string{{path}, {"check", path}, {"info", path}, {"bitmaps", path}, {"bitmaps", path, "b0"}} {
		code, out, errs := runIn(args...)
		assert.Equal(t, 1, code)
		assert.Empty(t, out)
		lines := strings.Split(strings.TrimSpace(errs), "\n")
		if assert.Len(t, lines, 2, "%s", errs) {
			// Who holds it is told where that can be found out in time.
			assert.Regexp(t, `^qcheck: error: .*disk\.qcow2: .*(`+fmt.Sprint(d.Pid())+`|most likely a running QEMU).*holds this image`, lines[0])
			assert.Regexp(t, `^qcheck: hint: .*-U`, lines[1])
		}
	}
	c, code := checkJSON(t, path)
	assert.Equal(t, 1, code)
	assert.Equal(t, "incomplete", c.Verdict)
	assert.Equal(t, 1, c.CheckErrors)

	code, out, errs := runIn("-U", path)
	assert.Equal(t, 0, code)
	assert.Contains(t, out, "provisional")
	assert.NotContains(t, out, "BMD012", "a bitmap in use is as it should be now")
	assert.Empty(t, errs)
	c, code = checkJSON(t, "--force-share", path)
	assert.Equal(t, 0, code)
	assert.Equal(t, "clean", c.Verdict)
	assert.True(t, c.Provisional)

	for _, args := range [][]string{{"info", "-U", path}, {"bitmaps", "-U", path}, {"bitmaps", "-U", path, "b0"}} {
		code, out, errs := runIn(args...)
		assert.Equal(t, 0, code)
		assert.NotEmpty(t, out)
		assert.Regexp(t, `^qcheck: warning: .*\n$`, errs)
	}
	for _, args := range [][]string{{"info", "-U", path}, {"bitmaps", "-U", path}, {"bitmaps", "-U", path, "b0"}} {
		_, out, _ := runIn(args...)
		assert.Contains(t, out, "in use by the running VM")
		assert.NotContains(t, out, "inconsistent", "it is as it should be")
	}
	for _, args := range [][]string{{"info", "-U", "-o", "json", path}, {"bitmaps", "-U", "-o", "json", path}, {"-U", "-o", "json", path}} {
		_, out, _ := runIn(args...)
		assert.Contains(t, out, `"state": "in-use"`)
		assert.NotContains(t, out, "inconsistent")
	}
	code, _, _ = runIn("-U", "--require-bitmap", "b0", path)
	assert.Equal(t, 4, code, "what the disk has of the bitmap is not to be used")

	d.Quit()
	c, code = checkJSON(t, path)
	assert.Equal(t, 0, code)
	assert.False(t, c.Provisional)
	c, code = checkJSON(t, "-U", path)
	assert.Equal(t, 0, code)
	assert.False(t, c.Provisional, "nothing writes to it any more")
	code, _, _ = runIn("--require-bitmap", "b0,state=enabled", path)
	assert.Equal(t, 0, code)
}

// A QEMU that was killed holds no locks, and leaves a bitmap in use: sound, but no
// base for a backup.
func TestImageOfAKilledQEMU(t *testing.T) {
	t.Parallel()
	path := newImage(t, "16M")
	qemutest.AddImageBitmap(t, path, "b0", 65536, false)
	d := qemutest.Serve(t, path)
	d.IO("write -P 1 0 1M")
	d.Kill9()
	c, code := checkJSON(t, path)
	assert.Equal(t, 0, code)
	assert.False(t, c.Provisional)
	if assert.Len(t, c.Findings, 1) {
		assert.Equal(t, "BMD012", c.Findings[0].Code)
	}
	code, _, _ = runIn("--require-bitmap", "b0", path)
	assert.Equal(t, 4, code)
}

// The backing file of a running VM is read by it, and can be checked.
func TestBackingFileOfARunningQEMU(t *testing.T) {
	t.Parallel()
	base := newImage(t, "16M")
	overlay := newImage(t, "16M", "-b", base, "-F", "qcow2")
	qemutest.Serve(t, overlay)
	c, code := checkJSON(t, base)
	assert.Equal(t, 0, code)
	assert.False(t, c.Provisional)
	_, code = checkJSON(t, overlay)
	assert.Equal(t, 1, code)
}

// An external data file that a QEMU writes to is as good as the image.
func TestDataFileOfARunningQEMU(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "disk.raw")
	path := newImage(t, "16M", "-o", "data_file="+data)
	// Of raw data alone a QEMU claims nothing while no guest uses it.
	qemutest.Img(t, "create", "-q", "-f", "qcow2", data, "1G")
	require.NoError(t, os.Truncate(data, 16<<20))
	qemutest.Serve(t, data)
	c, code := checkJSON(t, path)
	assert.Equal(t, 1, code)
	assert.Equal(t, "incomplete", c.Verdict)
	_, _, errs := runIn(path)
	assert.Regexp(t, `^qcheck: hint: .*-U.*\n$`, errs)
	c, code = checkJSON(t, "-U", path)
	assert.Equal(t, 0, code)
	assert.Equal(t, "clean", c.Verdict)
	c, code = checkJSON(t, "--untrusted", path)
	assert.Equal(t, 4, code, "it is not even opened")
	assert.Equal(t, "clean", c.Verdict)
}

// guestWork is commands of qemu-io as a busy guest would have them.
func guestWork(r *rand.Rand, n int, size int64) []string {
	var commands []string
	for range n {
		length := []int64{4096, 65536, 262144}[r.IntN(3)]
		offset := r.Int64N((size-length)/4096) * 4096
		switch p := r.IntN(100); {
		case p < 75:
			commands = append(commands, fmt.Sprintf("write -P %d %d %d", r.IntN(256), offset, length))
		case p < 90:
			commands = append(commands, fmt.Sprintf("discard %d %d", offset, length))
		case p < 97:
			commands = append(commands, fmt.Sprintf("write -z %d %d", offset, length))
		default:
			commands = append(commands, "flush")
		}
	}
	return commands
}

// An image that is written to all the while is read in the middle of changes. What
// looks like corruption then must not be reported as such: leaks may be, for QEMU
// takes clusters well before it says what for.
func TestImageWrittenToMeanwhile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"plain", nil},
		{"small clusters", []string{"-o", "cluster_size=4096"}},
		{"lazy refcounts", []string{"-o", "lazy_refcounts=on,extended_l2=on"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := newImage(t, "1G", tt.args...)
			d := qemutest.Serve(t, path)
			r := rand.New(rand.NewPCG(1, 2))

			written := make(chan struct{})
			verdicts := make(chan map[string]int)
			go func() {
				seen := make(map[string]int)
				for ; ; time.Sleep(10 * time.Millisecond) {
					c, code := checked{}, 0
					_, out, errs := runIn("-U", "-o", "json", path)
					if err := json.Unmarshal([]byte(out), &c); err != nil {
						t.Errorf("%v: %s%s", err, out, errs)
					}
					if !c.Provisional {
						t.Errorf("exit code %d: not called provisional: %s%s", code, out, errs)
					}
					seen[c.Verdict]++
					for _, f := range c.Findings {
						if c.Verdict == "corrupt" {
							t.Logf("%s %s", f.Code, f.Message)
						}
					}
					select {
					case <-written:
						verdicts <- seen
						return
					default:
					}
				}
			}()
			rounds := 3
			if testing.Short() {
				rounds = 1
			}
			for i := range rounds {
				d.IO(guestWork(r, 250, 1<<30)...)
				d.Do("blockdev-snapshot-internal-sync", map[string]any{"device": qemutest.Disk, "name": fmt.Sprint(i)})
			}
			close(written)
			seen := <-verdicts
			t.Logf("verdicts: %v", seen)
			total := 0
			for _, n := range seen {
				total += n
			}
			assert.Zero(t, seen["incomplete"])
			assert.LessOrEqual(t, seen["corrupt"], max(1, total/5))

			d.Quit()
			c, code := checkJSON(t, path)
			assert.Equal(t, 0, code, "%+v", c)
		})
	}
}
