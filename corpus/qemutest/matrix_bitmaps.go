package qemutest

import (
	"fmt"
	"strings"
)

// dirtyBitmaps gives the image an enabled and a disabled bitmap with dirty bits, as a hypervisor stores
// them, and data where the bits are.
func (m *maker) dirtyBitmaps(granularity, cluster, size int64) {
	m.t.Helper()
	d := Serve(m.t, m.path)
	d.AddBitmap(Bitmap{Name: "on", Granularity: granularity})
	d.AddBitmap(Bitmap{Name: "off", Granularity: granularity})
	d.IO(fill(cluster, size)...)
	d.DisableBitmap(Disk, "off")
	d.IO(change(cluster, size, 1)...)
	d.Quit()
}

// bitmapCases: persistent dirty bitmaps that were stored properly.
func bitmapCases() []Case {
	var cases []Case
	for _, g := range []int64{512, 4 * kib, 64 * kib, mib, 2 << 30} {
		for _, cluster := range []int64{512, 64 * kib, 2 * mib} {
			cases = append(cases, Case{
				Name:  fmt.Sprintf("bitmaps-%s-cluster-%s", sizeName(g), sizeName(cluster)),
				needs: []string{QemuDaemon},
				build: func(m *maker) {
					size := max(64*cluster, 8*mib)
					m.create(fmt.Sprint(size), "cluster_size="+fmt.Sprint(cluster))
					m.bitmap("empty", g)
					m.dirtyBitmaps(g, cluster, size)
				},
			})
		}
	}
	for _, size := range []int64{512, 64*kib + 512, mib + 512} {
		cases = append(cases, Case{
			Name:  fmt.Sprintf("bitmaps-size-%d", size),
			needs: []string{QemuDaemon},
			build: func(m *maker) {
				m.create(fmt.Sprint(size))
				m.dirtyBitmaps(512, 64*kib, size)
			},
		})
	}
	return append(cases,
		Case{Name: "bitmaps-by-qemu-img", build: func(m *maker) {
			m.create("64M")
			m.bitmap("enabled", 512)
			AddImageBitmap(m.t, m.path, "disabled", 2<<30, true)
			AddImageBitmap(m.t, m.path, "toggled", 64*kib, true)
			m.io(fill(64*kib, 64*mib)...)
			Img(m.t, "bitmap", "-f", "qcow2", "--enable", m.path, "toggled")
			Img(m.t, "bitmap", "-f", "qcow2", "--add", "--merge", "enabled", m.path, "sum")
			Img(m.t, "bitmap", "-f", "qcow2", "--clear", m.path, "enabled")
		}},
		Case{Name: "bitmaps-merged", needs: []string{QemuDaemon}, build: func(m *maker) {
			m.create("64M")
			m.dirtyBitmaps(64*kib, 64*kib, 64*mib)
			d := Serve(m.t, m.path)
			d.AddBitmap(Bitmap{Name: "sum", Granularity: 64 * kib, Disabled: true})
			d.MergeBitmaps(Disk, "sum", "on", "off")
			d.Quit()
		}},
		Case{Name: "bitmaps-removed", needs: []string{QemuDaemon}, build: func(m *maker) {
			m.create("64M")
			m.dirtyBitmaps(64*kib, 64*kib, 64*mib)
			Img(m.t, "bitmap", "-f", "qcow2", "--remove", m.path, "on")
		}},
		Case{Name: "bitmaps-all-removed", needs: []string{QemuDaemon}, build: func(m *maker) {
			m.create("64M")
			m.dirtyBitmaps(64*kib, 64*kib, 64*mib)
			Img(m.t, "bitmap", "-f", "qcow2", "--remove", m.path, "off")
			Img(m.t, "bitmap", "-f", "qcow2", "--remove", m.path, "on")
		}},
		// A directory of several clusters, and tables of several, with data across them.
		Case{Name: "bitmaps-100", needs: []string{QemuDaemon}, build: func(m *maker) {
			m.create("256M", "cluster_size=512")
			d := Serve(m.t, m.path)
			for i := range 100 {
				d.AddBitmap(Bitmap{Name: fmt.Sprintf("bitmap-%d", i), Granularity: 64 * kib, Disabled: i%2 == 0})
			}
			d.AddBitmap(Bitmap{Name: "fine", Granularity: 512})
			d.IO("write -P 1 0 4k", "write -P 2 100M 64k", "write -P 3 268434944 512")
			d.Quit()
		}},
		Case{Name: "bitmaps-all-dirty", needs: []string{QemuDaemon}, build: func(m *maker) {
			m.create("33M", "cluster_size=4k")
			d := Serve(m.t, m.path)
			d.AddBitmap(Bitmap{Name: "b", Granularity: 512})
			d.IO("write -z 0 33M")
			d.Quit()
		}},
		Case{Name: "bitmaps-names", build: func(m *maker) {
			m.create("1M")
			m.bitmap(strings.Repeat("n", 1023), 64*kib)
			m.bitmap("Änderungen-变更", 64*kib)
			m.bitmap("a", 64*kib)
		}},
		Case{Name: "bitmaps-extended-l2-backing", needs: []string{QemuDaemon}, build: func(m *maker) {
			m.rawFile("base.raw", 2*mib)
			m.overlay("base.raw", "raw", "4M", "extended_l2=on")
			m.dirtyBitmaps(4*kib, 64*kib, 4*mib)
		}},
		Case{Name: "bitmaps-snapshots-refcount-bits-8", needs: []string{QemuDaemon}, build: func(m *maker) {
			m.create("4M", "refcount_bits=8")
			m.io(fill(64*kib, 4*mib)...)
			m.snapshots(64*kib, 4*mib, "a", "b")
			m.dirtyBitmaps(64*kib, 64*kib, 4*mib)
		}},
		Case{Name: "bitmaps-1T", build: func(m *maker) {
			m.create("1T")
			m.bitmap("b0", 64*kib)
			m.io("write -P 1 0 64k", "write -P 2 700G 64k")
		}},
	)
}

// killedCases: images whose QEMU was killed, so that bitmaps are in use. All that the guest wrote had been flushed.
func killedCases() []Case {
	killed := func(m *maker) {
		d := Serve(m.t, m.path)
		d.AddBitmap(Bitmap{Name: "never-stored"})
		d.IO(change(64*kib, 8*mib, 3)...)
		d.Kill9()
	}
	daemon := []string{QemuDaemon}
	return []Case{
		{Name: "killed", needs: daemon, InUse: []string{"on", "off"}, build: func(m *maker) {
			m.create("8M")
			m.dirtyBitmaps(64*kib, 64*kib, 8*mib)
			killed(m)
		}},
		{Name: "killed-reopened", needs: daemon, InUse: []string{"on", "off"}, build: func(m *maker) {
			m.create("8M", "cluster_size=4k")
			m.dirtyBitmaps(512, 4*kib, 8*mib)
			killed(m)
			m.io("write -P 1 5M 64k")
			m.bitmap("next", 64*kib)
		}},
		{Name: "killed-one-removed", needs: daemon, InUse: []string{"off"}, build: func(m *maker) {
			m.create("8M")
			m.dirtyBitmaps(64*kib, 64*kib, 8*mib)
			killed(m)
			Img(m.t, "bitmap", "-f", "qcow2", "--remove", m.path, "on")
		}},
		{Name: "killed-snapshots", needs: daemon, InUse: []string{"on", "off"}, build: func(m *maker) {
			m.create("8M")
			m.dirtyBitmaps(64*kib, 64*kib, 8*mib)
			m.snapshots(64*kib, 8*mib, "a")
			killed(m)
		}},
		{Name: "killed-without-bitmaps", needs: daemon, build: func(m *maker) {
			m.create("8M")
			killed(m)
		}},
	}
}

// Crashed returns images whose QEMU was killed and that QEMU itself finds fault with, or may: it marks one as
// dirty, and has lost the space of clusters that it had counted but not yet mapped. Guest data is sound in
// all of them. Which counts Case.Check gives is for the test to compare.
func Crashed() []Case {
	crashed := func(name, options, cache string) Case {
		return Case{Name: name, build: func(m *maker) {
			m.create("64M", options)
			// Space that was in use before and is free again: to use it needs no new tables, and so none of the
			// flushes that come with them.
			m.io("write -P 1 0 64k", "write -P 2 1M 2M", "discard 1M 2M")
			// A small cache makes QEMU write that kind of table early, so that the other is what the kill loses.
			res := Run(m.t, QemuIO, "-t", "writeback", "-c", "write -P 3 1M 2M", "-c", "sigraise 9",
				"--image-opts", "driver=qcow2,"+cache+"=2048,file.filename="+strings.ReplaceAll(m.path, ",", ",,"))
			if res.RC != 128+9 {
				m.t.Fatalf("not killed\n%v", res)
			}
		}}
	}
	return []Case{
		crashed("crashed", "cluster_size=512", "refcount-cache-size"),
		crashed("crashed-lazy-refcounts", "cluster_size=512,lazy_refcounts=on", "l2-cache-size"),
	}
}
