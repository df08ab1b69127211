package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
)

// socketPath is a path short enough for a socket.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qv")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "qmp")
}

// liveJSON is what tests look at in the JSON of an image that QEMU was asked about.
type liveJSON struct {
	checked
	Unmet []string `json:"unmet"`
	Live  struct {
		Guest   string `json:"guest"`
		Node    string `json:"node"`
		Bitmaps []struct {
			Name        string `json:"name"`
			Granularity int    `json:"granularity"`
			DirtyBytes  int    `json:"dirty-bytes"`
			State       string `json:"state"`
			Busy        bool   `json:"busy"`
			Persistent  bool   `json:"persistent"`
		} `json:"bitmaps"`
	} `json:"live"`
}

func askQMP(t *testing.T, args ...string) (liveJSON, int) {
	t.Helper()
	code, out, errs := runIn(append([]string{"-o", "json"}, args...)...)
	var l liveJSON
	require.NoError(t, json.Unmarshal([]byte(out), &l), "%s%s", out, errs)
	return l, code
}

// What a storage daemon has in memory decides about bitmaps: their names, states and sizes,
// whatever the file says, which it writes only when it closes the image.
func TestLiveBitmapsOfAStorageDaemon(t *testing.T) {
	t.Parallel()
	path := newImage(t, "16M")
	qemutest.AddImageBitmap(t, path, "stored", 65536, false)
	socket := socketPath(t)
	d := qemutest.StartListening(t, socket)
	d.Open(qemutest.Disk, path, nil)
	d.Do("block-dirty-bitmap-add", map[string]any{"node": qemutest.Disk, "name": "new", "persistent": true, "granularity": 131072})
	d.Do("block-dirty-bitmap-add", map[string]any{"node": qemutest.Disk, "name": "memory"})
	d.Do("block-dirty-bitmap-add", map[string]any{"node": qemutest.Disk, "name": "off", "persistent": true, "disabled": true})
	d.IO("write -P 1 0 1M")

	l, code := askQMP(t, "--qmp", socket, "--require-bitmap", "new,granularity=128k", "--require-bitmap", "stored,state=enabled", qemutest.Disk)
	assert.Equal(t, 0, code, "%v", l.Unmet)
	assert.Equal(t, path, l.Filename)
	assert.True(t, l.Provisional)
	assert.Empty(t, l.Live.Guest)
	states := make(map[string]string)
	for _, b := range l.Live.Bitmaps {
		states[b.Name] = b.State
		if b.Name == "new" {
			assert.Equal(t, 1<<20, b.DirtyBytes)
			assert.Equal(t, 131072, b.Granularity)
		}
	}
	assert.Equal(t, map[string]string{"stored": "enabled", "new": "enabled", "memory": "enabled", "off": "disabled"}, states)

	for name, why := range map[string]string{
		"off,state=enabled": "it is disabled", "memory": "not persistent", "new,granularity=64k": "its granularity is 128 KiB", "nothing": "QEMU has no such bitmap"} {
		l, code := askQMP(t, "--qmp", socket, "--require-bitmap", name)
		assert.Equal(t, 4, code, name)
		if assert.Len(t, l.Unmet, 1, name) {
			assert.Contains(t, l.Unmet[0], why)
		}
	}
	_, code = askQMP(t, "--qmp", socket, "--require-bitmaps=all")
	assert.Equal(t, 4, code, "one is in memory only")
	code, out, _ := runIn("--qmp", socket)
	assert.Equal(t, 0, code)
	assert.Contains(t, out, "QEMU has this image open as node disk, with these bitmaps:\n")
	assert.Regexp(t, `(?m)^memory +64 KiB +enabled, not persistent +1 MiB$`, out)

	code, _, errs := runIn("--qmp", socket, "nosuch")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, `no qcow2 node or device "nosuch"; there are: disk`)
	code, _, errs = runIn("-r", "--qmp", socket)
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "never repaired")

	// After a kill the bitmap of the image is inconsistent, and the next daemon says so.
	d.Kill9()
	code, _, errs = runIn("--qmp", socket)
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "connection refused")
	again := socketPath(t)
	d = qemutest.StartListening(t, again)
	d.Open(qemutest.Disk, path, nil)
	l, code = askQMP(t, "--qmp", again, "--require-bitmap", "stored")
	assert.Equal(t, 4, code)
	if assert.Len(t, l.Unmet, 1) {
		assert.Contains(t, l.Unmet[0], "it is inconsistent")
	}
}

// A virtual machine is named: in the report, and in the message that it holds an image. Its
// images may be named relative to its own folder, and disks by their devices.
func TestLiveVirtualMachine(t *testing.T) {
	t.Parallel()
	qemutest.Require(t, qemutest.QemuSystem)
	path := newImage(t, "16M")
	qemutest.AddImageBitmap(t, path, "b0", 65536, false)
	socket := socketPath(t)
	d := qemutest.StartGuest(t, "guest=web,,1,debug-threads=off", socket, filepath.Dir(path))
	d.Open("format-node", filepath.Base(path), nil)

	l, code := askQMP(t, "--qmp", socket, "--require-bitmap", "b0")
	assert.Equal(t, 0, code, "%v", l.Unmet)
	assert.Equal(t, "web,1", l.Live.Guest)
	assert.Equal(t, path, l.Filename)
	_, out, _ := runIn("--qmp", socket)
	assert.Contains(t, out, "VM web,1 has this image open as node format-node, with these bitmaps:\n")

	code, _, errs := runIn(path)
	assert.Equal(t, 1, code)
	if !strings.Contains(errs, "most likely a running QEMU") { // it could not be found out in time
		assert.Regexp(t, `VM web,1 \(qemu-system-.*, process \d+\) holds this image for writing`, errs)
	}
}

// Whatever answers on a socket, it ends with an error and in time.
func TestQMPOfSomethingElse(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]string{
		"not a monitor": "HTTP/1.1 400 Bad Request\r\n\r\n", "nothing": "", "no greeting": "{\"return\": {}}\n", "ends": "{\"QMP\": {}}\n",
		"refuses": "{\"QMP\": {}}\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\x1b[2J\"}}\n",
	} {
		socket := socketPath(t)
		listener, err := net.Listen("unix", socket)
		require.NoError(t, err)
		go func() {
			conn, err := listener.Accept()
			if err == nil {
				_, _ = conn.Write([]byte(says))
				_, _ = conn.Read(make([]byte, 100))
				conn.Close()
			}
		}()
		code, out, errs := runIn("--qmp", socket)
		if name == "nothing" {
			// QEMU lets a second client wait: so it takes as long as an answer may take.
			listener.Close()
		}
		assert.Equal(t, 1, code, name)
		assert.Empty(t, out)
		assert.Contains(t, errs, "qcheck: error: --qmp: ", name)
		assert.NotContains(t, errs, "\x1b")
		listener.Close()
	}
}
