package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus/qemutest"
)

// chained is what tests look at in the JSON of the check of a chain.
type chained struct {
	checked
	Chain []struct {
		Filename string `json:"filename"`
		Verdict  string `json:"verdict"`
		Findings []struct {
			Code     string `json:"code"`
			Severity string `json:"severity"`
		} `json:"findings"`
	} `json:"chain"`
	Bitmaps []struct {
		Name   string `json:"name"`
		Usable bool   `json:"usable"`
		Why    string `json:"why"`
	} `json:"chain-bitmaps"`
}

func checkChainJSON(t *testing.T, args ...string) (chained, int) {
	t.Helper()
	code, out, errs := runIn(append([]string{"--chain", "-o", "json"}, args...)...)
	var c chained
	require.NoError(t, json.Unmarshal([]byte(out), &c), "%s%s", out, errs)
	return c, code
}

// The bitmaps of one name in a chain of three, in every combination of what each layer
// can have of it: what is said of them is what libvirt's rules make of what QEMU says of
// the same chain, and QEMU can merge those that are called usable.
func TestChainBitmapsAsQEMUHasThem(t *testing.T) {
	t.Parallel()
	qemutest.Require(t, qemutest.QemuDaemon)
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "top.qcow2"), filepath.Join(dir, "mid.qcow2"), filepath.Join(dir, "base.qcow2")}
	qemutest.Img(t, "create", "-q", "-f", "qcow2", files[2], "8M")
	qemutest.Img(t, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", files[1], "8M")
	qemutest.Img(t, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "mid.qcow2", files[0], "8M")
	var names []string
	for _, a := range "-edi" {
		for _, b := range "-edi" {
			for _, c := range "-edi" {
				if name := string([]rune{a, b, c}); name != "---" {
					names = append(names, name)
				}
			}
		}
	}
	for layer, file := range files {
		// Those that are to be inconsistent first: a daemon that is killed leaves them in use.
		for _, round := range []string{"i", "ed"} {
			d := qemutest.Start(t)
			d.Open("n", file, map[string]any{"backing": nil})
			for _, name := range names {
				if state := name[layer : layer+1]; strings.Contains(round, state) {
					d.Do("block-dirty-bitmap-add", map[string]any{"node": "n", "name": name, "persistent": true, "disabled": state == "d"})
				}
			}
			d.Quit()
			if round == "i" {
				d = qemutest.Start(t)
				d.Open("n", file, map[string]any{"backing": nil})
				d.Kill9()
			}
		}
	}

	c, code := checkChainJSON(t, files[0])
	assert.Equal(t, 0, code)
	usable := make(map[string]bool)
	for _, b := range c.Bitmaps {
		usable[b.Name] = b.Usable
		assert.Equal(t, b.Usable, b.Why == "")
	}
	assert.Len(t, usable, len(names))

	d := qemutest.Start(t)
	for i := len(files) - 1; i >= 0; i-- {
		options := map[string]any{"backing": nil, "read-only": i > 0}
		if i+1 < len(files) {
			options["backing"] = fmt.Sprintf("n%d", i+1)
		}
		d.Open(fmt.Sprintf("n%d", i), files[i], options)
	}
	var nodes []struct {
		Node    string `json:"node-name"`
		Bitmaps []struct {
			Name         string `json:"name"`
			Recording    bool   `json:"recording"`
			Persistent   bool   `json:"persistent"`
			Inconsistent bool   `json:"inconsistent"`
		} `json:"dirty-bitmaps"`
	}
	require.NoError(t, json.Unmarshal(d.Do("query-named-block-nodes", nil), &nodes))
	good := make(map[string]bool) // node and name
	there := make(map[string]bool)
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			there[n.Node+b.Name] = true
			good[n.Node+b.Name] = b.Recording && b.Persistent && !b.Inconsistent
		}
	}
	n := 0
	for _, name := range names {
		want, ended := true, false
		for i := range files {
			key := fmt.Sprintf("n%d%s", i, name)
			want = want && (there[key] && good[key] && !ended || !there[key] && i > 0)
			ended = ended || !there[key]
		}
		assert.Equal(t, want, usable[name], "%s", name)
		if !want {
			continue
		}
		n++
		d.Do("block-dirty-bitmap-add", map[string]any{"node": "n0", "name": "all-" + name})
		var sources []any
		for i := range files {
			if there[fmt.Sprintf("n%d%s", i, name)] {
				sources = append(sources, map[string]any{"node": fmt.Sprintf("n%d", i), "name": name})
			}
		}
		d.Do("block-dirty-bitmap-merge", map[string]any{"node": "n0", "target": "all-" + name, "bitmaps": sources})
	}
	assert.Equal(t, 3, n, "e--, ee- and eee")
}

// A base that something writes to is no base any more, and QEMU does not open the overlay.
func TestChainBaseInUse(t *testing.T) {
	t.Parallel()
	qemutest.Require(t, qemutest.QemuDaemon)
	dir := t.TempDir()
	base, top := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "top.qcow2")
	qemutest.Img(t, "create", "-q", "-f", "qcow2", base, "8M")
	qemutest.Img(t, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", top, "8M")
	d := qemutest.Serve(t, base)

	c, code := checkChainJSON(t, top)
	assert.Equal(t, 1, code)
	if assert.Len(t, c.Findings, 1) {
		assert.Equal(t, "CHN005", c.Findings[0].Code)
	}
	assert.NotEqual(t, 0, qemutest.Run(t, qemutest.QemuImg, "check", top).RC)

	c, code = checkChainJSON(t, "-U", top)
	assert.Equal(t, 0, code)
	if assert.Len(t, c.Chain, 1) && assert.NotEmpty(t, c.Findings) {
		assert.Equal(t, "CHN005", c.Findings[0].Code, "a warning then")
	}
	d.Quit()
	c, code = checkChainJSON(t, top)
	assert.Equal(t, 0, code)
	assert.Empty(t, c.Findings)
}

// A backing file is looked for where QEMU looks for it, whatever its name looks like: what
// qemu-img opens is found, and what it does not find is not.
func TestChainFindsFilesAsQEMUDoes(t *testing.T) {
	qemutest.Require(t)
	dir := t.TempDir()
	t.Chdir(dir)
	for _, d := range []string{"a/x:y", "a/deep/er", "b"} {
		require.NoError(t, os.MkdirAll(d, 0o777))
	}
	require.NoError(t, os.Symlink("../a/deep", "b/link"))
	for _, f := range []string{"here.raw", "a/beside.raw", "a/x:y/colon.raw", "a/deep/in.raw"} {
		qemutest.Img(t, "create", "-q", "-f", "raw", f, "1M")
	}
	found := 0
	for i, name := range []string{"beside.raw", "./beside.raw", "../here.raw", "here.raw", "file:here.raw", "file:beside.raw", "file:" + dir + "/here.raw",
		"file://" + dir + "/here.raw", "file://here.raw", "./x:y/colon.raw", "x:y/colon.raw", "deep/in.raw", "deep/../beside.raw", "../b/link/in.raw",
		"../b/link/../beside.raw", "../b/../b/link/../b/x.raw", "nothing.raw", dir + "/a/beside.raw"} {
		overlay := fmt.Sprintf("a/o%d.qcow2", i)
		qemutest.Img(t, "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, overlay, "1M")
		require.NoError(t, os.Symlink("../"+overlay, fmt.Sprintf("b/o%d.qcow2", i)))
		for _, image := range []string{overlay, filepath.Join(dir, overlay), fmt.Sprintf("b/o%d.qcow2", i)} {
			opens := qemutest.Run(t, qemutest.QemuImg, "check", image).RC == 0
			_, code := checkChainJSON(t, image)
			assert.Equal(t, opens, code == 0, "%s names %s", image, name)
			if opens {
				found++
			}
		}
	}
	assert.Greater(t, found, 10)
}
