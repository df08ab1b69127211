package qemutest

import (
	"fmt"
	"path/filepath"
	"strings"
)

// snapshotCases: internal snapshots beyond those that other cases have.
func snapshotCases() []Case {
	return []Case{
		{Name: "snapshots-12", build: func(m *maker) {
			m.create("1M", "cluster_size=4k")
			m.io(fill(4*kib, mib)...)
			var names []string
			for i := range 12 {
				names = append(names, fmt.Sprintf("snapshot number %d", i))
			}
			m.snapshots(4*kib, mib, names...)
		}},
		{Name: "snapshots-deleted", build: func(m *maker) {
			m.create("4M")
			m.io(fill(64*kib, 4*mib)...)
			m.snapshots(64*kib, 4*mib, "a", "b", "c")
			m.img("snapshot", "-d", "b")
			m.img("snapshot", "-d", "a")
		}},
		{Name: "snapshots-all-deleted", build: func(m *maker) {
			m.create("1M", "cluster_size=512")
			m.io(fill(512, mib)...)
			m.snapshots(512, mib, "a", "b")
			m.img("snapshot", "-d", "b")
			m.img("snapshot", "-d", "a")
		}},
		{Name: "snapshot-applied", build: func(m *maker) {
			m.create("4M")
			m.io(fill(64*kib, 4*mib)...)
			m.snapshots(64*kib, 4*mib, "a", "b")
			m.img("snapshot", "-a", "a")
			m.io("write -P 99 1M 64k")
		}},
		{Name: "snapshot-long-names", build: func(m *maker) {
			m.create("1M")
			m.io("write -P 1 0 64k")
			m.snapshots(64*kib, mib, strings.Repeat("n", 200), "Schnappschuß–快照")
		}},
		{Name: "snapshots-resized", build: func(m *maker) {
			m.create("2M", "cluster_size=4k")
			m.io(fill(4*kib, 2*mib)...)
			m.snapshots(4*kib, 2*mib, "small")
			Img(m.t, "resize", "-q", "-f", "qcow2", m.path, "24M")
			m.io("write -P 8 23M 64k")
			m.snapshots(4*kib, 24*mib, "large")
			Img(m.t, "resize", "-q", "-f", "qcow2", "--shrink", m.path, "1M")
		}},
		{Name: "snapshot-by-daemon", needs: []string{QemuDaemon}, build: func(m *maker) {
			m.create("4M")
			m.bitmap("b0", 64*kib)
			d := Serve(m.t, m.path)
			d.IO(fill(64*kib, 4*mib)...)
			d.Do("blockdev-snapshot-internal-sync", map[string]any{"device": Disk, "name": "live"})
			d.IO(change(64*kib, 4*mib, 1)...)
			d.Quit()
		}},
		vmState("vm-state", "1M", 64*kib),
		vmState("vm-state-cluster-512", "1M", 512),
		vmState("vm-state-odd-size", "1049088", 4*kib),
		vmState("vm-state-extended-l2", "1M", 64*kib, "extended_l2=on"),
		vmState("vm-state-compat-0.10", "1M", 4*kib, "compat=0.10"),
	}
}

// vmState: snapshots with the state of a machine, which QEMU stores past the end of the disk.
func vmState(name, size string, cluster int64, options ...string) Case {
	return Case{Name: name, needs: []string{QemuSystem}, build: func(m *maker) {
		m.create(size, append(options, "cluster_size="+fmt.Sprint(cluster))...)
		m.io(fill(cluster, mib)...)
		d := StartSystem(m.t, 4)
		d.Open(Disk, m.path, nil)
		d.SaveVM("first")
		d.SaveVM("second")
		d.Quit()
		m.io(change(cluster, mib, 1)...)
	}}
}

// resizeCases: disks that grew and shrank.
func resizeCases() []Case {
	grow := func(m *maker, size string, more ...string) {
		Img(m.t, append(append([]string{"resize", "-q", "-f", "qcow2"}, more...), m.path, size)...)
	}
	shrink := func(m *maker, size string) { grow(m, size, "--shrink") }

	var cases []Case
	for _, options := range []string{"cluster_size=512", "cluster_size=64k", "compat=0.10", "cluster_size=16k,extended_l2=on"} {
		cases = append(cases,
			Case{Name: "grown-" + nameOf(options), build: func(m *maker) {
				m.create("1M", options)
				m.io(fill(4*kib, mib)...)
				grow(m, "65M")
				m.io("write -P 9 64M 100k")
			}},
			Case{Name: "shrunk-" + nameOf(options), build: func(m *maker) {
				m.create("32M", options)
				m.io(fill(64*kib, 32*mib)...)
				shrink(m, "1000k")
			}},
		)
	}
	for _, mode := range []string{"metadata", "falloc", "full"} {
		cases = append(cases, Case{Name: "grown-preallocation-" + mode, build: func(m *maker) {
			m.create("1M")
			m.io(fill(64*kib, mib)...)
			grow(m, "4M", "--preallocation="+mode)
		}})
	}
	for _, g := range []int64{512, 64 * kib} {
		cases = append(cases,
			Case{Name: "grown-bitmaps-" + sizeName(g), needs: []string{QemuDaemon}, build: func(m *maker) {
				m.create("1M", "cluster_size=4k")
				m.dirtyBitmaps(g, 4*kib, mib)
				grow(m, "130M")
			}},
			Case{Name: "shrunk-bitmaps-" + sizeName(g), needs: []string{QemuDaemon}, build: func(m *maker) {
				m.create("130M", "cluster_size=4k")
				m.dirtyBitmaps(g, 4*kib, 130*mib)
				shrink(m, "1000k")
			}},
		)
	}
	return append(cases, Case{Name: "shrunk-to-one-sector", build: func(m *maker) {
		m.create("4M")
		m.io(fill(64*kib, 4*mib)...)
		shrink(m, "512")
	}})
}

// amendCases: images whose format was changed, or that are copies.
func amendCases() []Case {
	amended := func(name, from string, to ...string) Case {
		return Case{Name: "amended-" + name, build: func(m *maker) {
			m.create("4M", from)
			m.io(fill(64*kib, 4*mib)...)
			m.snapshots(64*kib, 4*mib, "a")
			for _, options := range to {
				m.img("amend", "-q", "-f", "qcow2", "-o", options)
			}
			m.io(change(64*kib, 4*mib, 2)...)
		}}
	}
	return []Case{
		amended("upgraded", "compat=0.10", "compat=1.1"),
		// Without snapshots: QEMU's downgrade turns a zero cluster that one shares into one that claims to be
		// its only owner (7.2 and 10.0 do), and calls the result corrupt itself.
		{Name: "amended-downgraded", build: func(m *maker) {
			m.create("4M", "compat=1.1,lazy_refcounts=on")
			m.io(fill(64*kib, 4*mib)...)
			m.img("amend", "-q", "-f", "qcow2", "-o", "compat=0.10")
			m.io(change(64*kib, 4*mib, 2)...)
		}},
		amended("lazy-refcounts", "compat=1.1", "lazy_refcounts=on"),
		amended("refcount-bits-64", "refcount_bits=2,cluster_size=4k", "refcount_bits=64"),
		amended("refcount-bits-8", "refcount_bits=64,cluster_size=4k", "refcount_bits=8"),
		{Name: "converted-with-bitmaps", needs: []string{QemuDaemon}, build: func(m *maker) {
			source := m.other("source.qcow2")
			source.create("4M")
			source.dirtyBitmaps(64*kib, 64*kib, 4*mib)
			m.img("convert", "-f", "qcow2", "-O", "qcow2", "--bitmaps", source.path)
		}},
		{Name: "converted-sparse", build: func(m *maker) {
			m.img("convert", "-f", "raw", "-O", "qcow2", "-S", "4k", m.rawFile("source.raw", 2*mib+512))
		}},
		{Name: "zeroed-and-discarded", build: func(m *maker) {
			m.create("8M", "cluster_size=4k")
			m.io("write -P 1 0 8M", "discard 0 2M", "write -z 2M 2M", "write -z -u 4M 2M",
				"discard 6149k 1k", "write -P 2 1M 12k", "write -P 3 3M 12k", "write -P 4 5M 12k", "discard 0 8M")
		}},
		{Name: "zeroed-and-discarded-compat-0.10", build: func(m *maker) {
			m.create("8M", "compat=0.10")
			m.io("write -P 1 0 8M", "discard 0 2M", "write -z 2M 2M", "write -z -u 4M 2M", "write -P 2 1M 64k")
		}},
		{Name: "mirrored", needs: []string{QemuDaemon}, build: func(m *maker) {
			source := m.other("source.qcow2")
			source.create("4M")
			source.io(fill(64*kib, 4*mib)...)
			m.create("4M", "cluster_size=4k")
			d := Serve(m.t, source.path)
			d.Open("target", m.path, nil)
			d.runJob("blockdev-backup", map[string]any{"device": Disk, "target": "target", "sync": "full", "auto-dismiss": false})
			d.Quit()
		}},
		{Name: "path-with-spaces", build: func(m *maker) {
			m.path = filepath.Join(m.dir, "a disk, of “mine”.qcow2")
			m.create("1M")
			m.io("write -P 1 0 64k")
		}},
	}
}
