package qemutest

import (
	"fmt"
	"maps"
	"path/filepath"
	"testing"
)

// Bitmap describes a dirty bitmap to add to a running daemon's node.
type Bitmap struct {
	// Node is the node that gets the bitmap. The default is Disk.
	Node string
	Name string
	// Granularity is in bytes, a power of two from 512 to 2 GiB. The default is QEMU's: the cluster size,
	// within 4 KiB and 64 KiB.
	Granularity int64
	// Disabled makes it a bitmap that does not record writes.
	Disabled bool
	// Transient keeps it out of the image.
	Transient bool
}

// AddBitmap adds a dirty bitmap. A persistent one reaches the image when the image is closed, so not when
// the daemon is killed.
func (d *Daemon) AddBitmap(b Bitmap) {
	d.t.Helper()
	args := map[string]any{"node": nodeOr(b.Node), "name": b.Name, "persistent": !b.Transient, "disabled": b.Disabled}
	if b.Granularity != 0 {
		args["granularity"] = b.Granularity
	}
	d.Do("block-dirty-bitmap-add", args)
}

// EnableBitmap makes the bitmap record writes. An empty node means Disk, here and below.
func (d *Daemon) EnableBitmap(node, name string) {
	d.t.Helper()
	d.Do("block-dirty-bitmap-enable", map[string]any{"node": nodeOr(node), "name": name})
}

// DisableBitmap makes the bitmap record no more writes.
func (d *Daemon) DisableBitmap(node, name string) {
	d.t.Helper()
	d.Do("block-dirty-bitmap-disable", map[string]any{"node": nodeOr(node), "name": name})
}

// ClearBitmap makes every bit of the bitmap clean.
func (d *Daemon) ClearBitmap(node, name string) {
	d.t.Helper()
	d.Do("block-dirty-bitmap-clear", map[string]any{"node": nodeOr(node), "name": name})
}

// RemoveBitmap removes the bitmap, from the image too.
func (d *Daemon) RemoveBitmap(node, name string) {
	d.t.Helper()
	d.Do("block-dirty-bitmap-remove", map[string]any{"node": nodeOr(node), "name": name})
}

// MergeBitmaps adds the dirty bits of the sources to target, all of one node.
func (d *Daemon) MergeBitmaps(node, target string, sources ...string) {
	d.t.Helper()
	d.Do("block-dirty-bitmap-merge", map[string]any{"node": nodeOr(node), "target": target, "bitmaps": sources})
}

// Backup copies what the bitmap says of a node to target, as an incremental backup does; the bitmap is then
// clean.
func (d *Daemon) Backup(node, target, bitmap string) {
	d.t.Helper()
	d.runJob("blockdev-backup", map[string]any{"device": nodeOr(node), "target": target, "bitmap": bitmap, "sync": "incremental", "auto-dismiss": false})
}

// SHA256 returns QEMU's own digest of what the bitmap holds, in lower-case hexadecimal. It covers the bits
// alone, not name, granularity or state, and is that of zeros for a bitmap that was in use when it was loaded.
func (d *Daemon) SHA256(node, name string) string {
	d.t.Helper()
	var res struct {
		SHA256 string `json:"sha256"`
	}
	decode(d.t, string(d.Do("x-debug-block-dirty-bitmap-sha256", map[string]any{"node": nodeOr(node), "name": name})), &res)
	return res.SHA256
}

// BitmapState is a dirty bitmap as a running QEMU has it.
type BitmapState struct {
	Name string `json:"name"`
	// Granularity and Count (of dirty bytes) are in bytes.
	Granularity int64 `json:"granularity"`
	Count       int64 `json:"count"`
	// Recording is true for an enabled bitmap, Inconsistent for one that was in use when it was loaded.
	Recording    bool `json:"recording"`
	Busy         bool `json:"busy"`
	Persistent   bool `json:"persistent"`
	Inconsistent bool `json:"inconsistent"`
}

// Bitmaps lists the node's bitmaps, the newest first.
func (d *Daemon) Bitmaps(node string) []BitmapState {
	d.t.Helper()
	var nodes []struct {
		Name    string        `json:"node-name"`
		Bitmaps []BitmapState `json:"dirty-bitmaps"`
	}
	decode(d.t, string(d.Do("query-named-block-nodes", map[string]any{"flat": true})), &nodes)
	for _, n := range nodes {
		if n.Name == nodeOr(node) {
			return n.Bitmaps
		}
	}
	d.t.Fatalf("no node %q", nodeOr(node))
	return nil
}

// Range is a range of the guest's disk, in bytes.
type Range struct{ Start, Length int64 }

// DirtyExtents returns the dirty ranges of a bitmap in order and joined, as an NBD client sees them. The
// bitmap must be disabled, or the node read-only.
func (d *Daemon) DirtyExtents(node, name string) []Range {
	d.t.Helper()
	var extents []Extent
	d.withExport(nodeOr(node), map[string]any{"bitmaps": []string{name}}, func(options string) {
		out := Img(d.t, "map", "--output=json", "--image-opts", options+",x-dirty-bitmap=qemu:dirty-bitmap:"+name)
		decode(d.t, out, &extents)
	})
	var dirty []Range
	for _, e := range extents {
		// QEMU's client takes the flag "dirty" for the flag "hole", which has the same value.
		if e.Data {
			continue
		}
		if n := len(dirty); n > 0 && dirty[n-1].Start+dirty[n-1].Length == e.Start {
			dirty[n-1].Length += e.Length
			continue
		}
		dirty = append(dirty, Range{e.Start, e.Length})
	}
	return dirty
}

// IO runs qemu-io commands on node Disk as a guest would: through the daemon, which records them in its bitmaps.
func (d *Daemon) IO(commands ...string) string {
	d.t.Helper()
	return d.NodeIO(Disk, commands...)
}

// NodeIO is IO for another node. When it returns, what was written is in the image, mapped and counted: the
// client has flushed it. (The refcounts are not, where they are lazy.)
func (d *Daemon) NodeIO(node string, commands ...string) string {
	d.t.Helper()
	var out string
	d.withExport(node, map[string]any{"writable": true}, func(options string) {
		out = IOArgs(d.t, []string{"-d", "unmap", "--image-opts", options}, commands...)
	})
	return out
}

// withExport exports the node over NBD while f runs, which gets the client's image options.
func (d *Daemon) withExport(node string, options map[string]any, f func(imageOptions string)) {
	d.t.Helper()
	socket := filepath.Join(d.dir, "nbd")
	if !d.server {
		d.Do("nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]any{"path": socket}}})
		d.server = true
	}
	d.exports++
	id := fmt.Sprintf("e%d", d.exports)
	export := map[string]any{"type": "nbd", "id": id, "node-name": node, "name": id}
	maps.Copy(export, options)
	d.Do("block-export-add", export)
	f(fmt.Sprintf("driver=nbd,export=%s,server.type=unix,server.path=%s", id, socket))
	d.Do("block-export-del", map[string]any{"id": id, "mode": "hard"})
	d.waitEvent("BLOCK_EXPORT_DELETED", id)
}

func nodeOr(node string) string {
	if node == "" {
		return Disk
	}
	return node
}

// AddImageBitmap adds a persistent bitmap to an image that nobody has open, with qemu-img; granularity is in
// bytes.
func AddImageBitmap(t testing.TB, path, name string, granularity int64, disabled bool) {
	t.Helper()
	args := []string{"bitmap", "--add", "-g", fmt.Sprint(granularity)}
	if disabled {
		args = append(args, "--disable")
	}
	Img(t, append(args, "-f", "qcow2", path, name)...)
}
