package qemutest

import (
	"fmt"
	"path/filepath"
	"strings"
)

// backingCases: images on top of others.
func backingCases() []Case {
	base := func(m *maker, size, options string) {
		b := m.other("base.qcow2")
		b.create(size, options)
		b.io("write -P 9 0 1M", "write -P 8 2M 1M", "write -z 3M 64k")
	}
	overlay := func(name, size, options string) Case {
		return Case{Name: "backing-" + name, build: func(m *maker) {
			base(m, "4M", "cluster_size=64k")
			m.overlay("base.qcow2", "qcow2", size, options)
			m.io(fill(64*kib, 3*mib)...)
			m.snapshots(64*kib, 3*mib, "a")
		}}
	}
	return []Case{
		overlay("qcow2", "", "cluster_size=64k"),
		overlay("qcow2-compat-0.10", "", "compat=0.10"),
		overlay("qcow2-other-cluster-size", "", "cluster_size=4k"),
		overlay("smaller", "3M", "cluster_size=64k"),
		overlay("larger", "9M", "cluster_size=64k"),
		overlay("preallocated", "4M", "preallocation=metadata,extended_l2=on"),
		{Name: "backing-raw", build: func(m *maker) {
			m.rawFile("base.raw", 3*mib+512)
			m.overlay("base.raw", "raw", "")
			m.io(fill(64*kib, 3*mib)...)
		}},
		{Name: "backing-chain", build: func(m *maker) {
			base(m, "4M", "cluster_size=64k")
			middle := m.other("middle.qcow2")
			middle.overlay("base.qcow2", "qcow2", "")
			middle.io("write -P 3 512k 1M", "write -z 2M 512k")
			m.overlay("middle.qcow2", "qcow2", "")
			m.io("write -P 4 700k 64k", "discard 0 256k", "write -z 1M 128k")
		}},
		{Name: "backing-long-name", build: func(m *maker) {
			m.rawFile("base.raw", mib)
			name := strings.Repeat("./", 450) + "base.raw"
			m.overlay(name, "raw", "")
			m.io("write -P 1 0 64k")
		}},
		{Name: "backing-json-name", build: func(m *maker) {
			raw := m.rawFile("base.raw", mib)
			m.overlay(fmt.Sprintf(`json:{"driver":"raw","file":{"driver":"file","filename":%q}}`, raw), "raw", "")
			m.io("write -P 1 0 64k")
		}},
		{Name: "rebased", build: func(m *maker) {
			base(m, "4M", "cluster_size=64k")
			other := m.other("other.qcow2")
			other.create("3M")
			other.io("write -P 7 0 2M")
			m.overlay("base.qcow2", "qcow2", "")
			m.io("write -P 1 100k 100k")
			m.img("rebase", "-f", "qcow2", "-b", "other.qcow2", "-F", "qcow2")
		}},
		{Name: "rebased-to-nothing", build: func(m *maker) {
			base(m, "4M", "cluster_size=64k")
			m.overlay("base.qcow2", "qcow2", "")
			m.io("write -P 1 100k 100k")
			m.img("rebase", "-f", "qcow2", "-b", "")
		}},
		{Name: "rebased-unsafely", build: func(m *maker) {
			m.create("4M")
			m.io("write -P 1 100k 100k")
			base(m, "4M", "cluster_size=64k")
			m.img("rebase", "-u", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2")
		}},
		{Name: "committed-into", build: func(m *maker) {
			m.create("4M")
			m.io(fill(64*kib, 4*mib)...)
			top := m.other("top.qcow2")
			top.overlay("image.qcow2", "qcow2", "6M")
			top.io("write -P 3 512k 1M", "write -z 2M 512k", "write -P 4 5M 64k")
			top.img("commit", "-q", "-f", "qcow2")
		}},
		{Name: "committed-from", build: func(m *maker) {
			base(m, "4M", "cluster_size=64k")
			m.overlay("base.qcow2", "qcow2", "")
			m.io(fill(64*kib, 4*mib)...)
			m.img("commit", "-q", "-f", "qcow2")
		}},
		{Name: "streamed", needs: []string{QemuDaemon}, build: func(m *maker) {
			base(m, "4M", "cluster_size=64k")
			m.overlay("base.qcow2", "qcow2", "")
			m.io("write -P 1 100k 100k")
			d := Serve(m.t, m.path)
			d.runJob("block-stream", map[string]any{"device": Disk, "auto-dismiss": false})
			d.Quit()
		}},
	}
}

// dataFileCases: guest data in a file of its own.
func dataFileCases() []Case {
	var cases []Case
	for _, raw := range []string{"on", "off"} {
		for _, options := range []string{
			"cluster_size=64k", "cluster_size=4k", "extended_l2=on", "lazy_refcounts=on",
			"preallocation=metadata", "preallocation=falloc", "preallocation=full",
		} {
			cases = append(cases, Case{
				Name: fmt.Sprintf("data-file-raw-%s-%s", raw, nameOf(options)),
				build: func(m *maker) {
					data := filepath.Join(m.dir, "data.raw")
					m.create("2100k", "data_file="+data, "data_file_raw="+raw, options)
					m.io(fill(64*kib, 2100*kib)...)
				},
			})
		}
	}
	return append(cases,
		Case{Name: "data-file-bitmaps", needs: []string{QemuDaemon}, build: func(m *maker) {
			m.create("4M", "data_file="+filepath.Join(m.dir, "data.raw"), "data_file_raw=on")
			m.bitmap("b0", 64*kib)
			d := Serve(m.t, m.path)
			d.IO(fill(64*kib, 4*mib)...)
			d.Quit()
		}},
		Case{Name: "data-file-backing", build: func(m *maker) {
			m.rawFile("base.raw", 3*mib)
			m.overlay("base.raw", "raw", "", "data_file="+filepath.Join(m.dir, "data.raw"))
			m.io(fill(64*kib, 3*mib)...)
		}},
		Case{Name: "data-file-resized", build: func(m *maker) {
			m.create("2M", "data_file="+filepath.Join(m.dir, "data.raw"), "data_file_raw=on")
			m.io(fill(64*kib, 2*mib)...)
			Img(m.t, "resize", "-q", "-f", "qcow2", m.path, "5M")
			m.io("write -P 1 4M 100k")
			Img(m.t, "resize", "-q", "-f", "qcow2", "--shrink", m.path, "1M")
		}},
	)
}

// encryptionCases: encrypted guest data. Each LUKS image takes seconds, because QEMU measures how fast the
// machine derives keys, however short iter-time is.
func encryptionCases() []Case {
	encrypted := func(name string, options ...string) Case {
		return Case{Name: "encrypted-" + name, Secret: "swordfish", build: func(m *maker) {
			m.create("3M", append([]string{"encrypt.key-secret=sec0"}, options...)...)
			m.io(fill(64*kib, 3*mib)...)
			// `qemu-img snapshot` with image options needs the secret too.
			Img(m.t, append([]string{"snapshot", "-c", "a"}, m.imageOptions()...)...)
			m.io(change(64*kib, 3*mib, 1)...)
		}}
	}
	const luks = "encrypt.format=luks,encrypt.iter-time=10"
	return []Case{
		encrypted("luks", luks),
		encrypted("luks-cluster-4k-compat-0.10", luks, "cluster_size=4k", "compat=0.10"),
		encrypted("luks-cluster-2M-extended-l2", luks, "cluster_size=2M", "extended_l2=on", "preallocation=metadata"),
		encrypted("aes", "encrypt.format=aes"),
	}
}
