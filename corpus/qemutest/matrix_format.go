package qemutest

import "fmt"

// sizeName writes a size as people and QEMU do: 512, 4k, 2M.
func sizeName(n int64) string {
	switch {
	case n >= mib && n%mib == 0:
		return fmt.Sprintf("%dM", n/mib)
	case n >= kib && n%kib == 0:
		return fmt.Sprintf("%dk", n/kib)
	default:
		return fmt.Sprint(n)
	}
}

// geometryCases: every kind of cluster size in both versions, with snapshots.
func geometryCases() []Case {
	var cases []Case
	for _, cluster := range []int64{512, 1 * kib, 4 * kib, 64 * kib, 2 * mib} {
		for _, compat := range []string{"0.10", "1.1"} {
			cases = append(cases, Case{
				Name: fmt.Sprintf("geometry-%s-compat-%s", sizeName(cluster), compat),
				build: func(m *maker) {
					size := max(256*cluster, mib)
					m.create(fmt.Sprint(size), "cluster_size="+fmt.Sprint(cluster), "compat="+compat)
					m.io(fill(cluster, size)...)
					m.snapshots(cluster, size, "first", "second")
				},
			})
		}
	}
	return cases
}

// refcountCases: every refcount width, with as many snapshots as it can count.
func refcountCases() []Case {
	var cases []Case
	for _, bits := range []int{1, 2, 4, 8, 16, 32, 64} {
		for _, cluster := range []int64{512, 64 * kib} {
			cases = append(cases, Case{
				Name: fmt.Sprintf("refcount-bits-%d-cluster-%s", bits, sizeName(cluster)),
				build: func(m *maker) {
					size := 1024 * cluster
					m.create(fmt.Sprint(size), fmt.Sprintf("cluster_size=%d,refcount_bits=%d", cluster, bits))
					m.io(fill(cluster, size)...)
					if bits > 1 {
						m.snapshots(cluster, size, []string{"a", "b", "c", "d"}[:min(bits, 4)]...)
					}
				},
			})
		}
	}
	return append(cases,
		Case{Name: "lazy-refcounts", build: func(m *maker) {
			m.create("4M", "lazy_refcounts=on")
			m.io(fill(64*kib, 4*mib)...)
			m.snapshots(64*kib, 4*mib, "a")
		}},
		// Enough clusters of 512 bytes that the refcount table, and with 64 bits each block often, must grow.
		Case{Name: "refcount-table-growth", build: func(m *maker) {
			m.create("4M", "cluster_size=512,refcount_bits=64")
			m.io("write -P 1 0 3M")
		}},
	)
}

// sizeCases: disks of no, odd and large size.
func sizeCases() []Case {
	var cases []Case
	for _, s := range []struct {
		name string
		size int64
	}{
		{"0", 0}, {"1", 1}, {"512", 512}, {"64k+1", 64*kib + 1}, {"1M+512", mib + 512}, {"5G+512", 5<<30 + 512},
	} {
		for _, cluster := range []int64{4 * kib, 64 * kib} {
			cases = append(cases, Case{
				Name: fmt.Sprintf("size-%s-cluster-%s", s.name, sizeName(cluster)),
				build: func(m *maker) {
					m.create(fmt.Sprint(s.size), "cluster_size="+fmt.Sprint(cluster))
					// QEMU rounds a size up to sectors when it creates an image.
					if rounded := (s.size + 511) &^ 511; rounded > 0 {
						m.io(fill(cluster, rounded)...)
					}
				},
			})
		}
	}
	return append(cases,
		Case{Name: "size-1T", build: func(m *maker) {
			m.create("1T")
			m.io("write -P 1 0 64k", "write -P 2 512G 64k", "write -P 3 1099511562240 64k")
		}},
		Case{Name: "size-1T-cluster-2M", build: func(m *maker) {
			m.create("1T", "cluster_size=2M")
			m.io("write -P 1 999G 64k")
		}},
		// 131,072 L1 entries: a table of 2,048 clusters.
		Case{Name: "size-4G-cluster-512", build: func(m *maker) {
			m.create("4G", "cluster_size=512")
			m.io("write -P 1 0 512", "write -P 2 3G 100k")
		}},
		Case{Name: "size-0-compat-0.10", build: func(m *maker) { m.create("0", "compat=0.10") }},
	)
}

// subclusterCases: extended L2 entries.
func subclusterCases() []Case {
	// Subclusters in every state, at both ends of an entry's bitmap and across entries.
	subclusters := func(cluster, size int64) []string {
		s := cluster / 32
		return append(fill(cluster, size), within(size, []op{
			{"write -P 1", 40 * cluster, s},
			{"write -P 2", 40*cluster + 31*s, 2 * s},
			{"write -z", 40*cluster + 5*s, 3 * s},
			{"write -P 3", 42*cluster + 7*s + 512, 512},
			{"write -z -u", 10*cluster + 4*s, 5 * s},
			{"discard", 14*cluster + 16*s, 8 * s},
		})...)
	}
	var cases []Case
	for _, cluster := range []int64{16 * kib, 64 * kib, 2 * mib} {
		for _, extra := range []string{"lazy_refcounts=off", "preallocation=metadata", "preallocation=full"} {
			if cluster > 64*kib && extra == "preallocation=full" {
				continue // 128 MiB of zeros tell nothing new
			}
			cases = append(cases, Case{
				Name: fmt.Sprintf("extended-l2-%s-%s", sizeName(cluster), nameOf(extra)),
				build: func(m *maker) {
					size := 64*cluster + 512
					m.create(fmt.Sprint(size), fmt.Sprintf("extended_l2=on,cluster_size=%d,%s", cluster, extra))
					m.io(subclusters(cluster, size)...)
					m.snapshots(cluster, size, "a", "b")
				},
			})
		}
	}
	return append(cases, Case{Name: "extended-l2-backing", build: func(m *maker) {
		base := m.other("base.qcow2")
		base.create("8M", "extended_l2=on,cluster_size=64k")
		base.io("write -P 8 0 8M")
		m.overlay("base.qcow2", "qcow2", "9M", "extended_l2=on,cluster_size=64k")
		m.io(subclusters(64*kib, 9*mib)...)
	}})
}

// compressionCases: compressed clusters of both kinds, alone and among others.
func compressionCases() []Case {
	var cases []Case
	for _, kind := range []string{"zlib", "zstd"} {
		for _, cluster := range []int64{512, 4 * kib, 64 * kib, 2 * mib} {
			cases = append(cases, Case{
				Name: fmt.Sprintf("compressed-%s-%s", kind, sizeName(cluster)),
				build: func(m *maker) {
					raw := m.rawFile("source.raw", 2*mib+512)
					m.img("convert", "-c", "-f", "raw", "-O", "qcow2",
						"-o", fmt.Sprintf("compression_type=%s,cluster_size=%d", kind, cluster), raw)
				},
			}, Case{
				Name: fmt.Sprintf("compressed-%s-%s-changed", kind, sizeName(cluster)),
				build: func(m *maker) {
					size := max(64*cluster, 128*kib)
					m.create(fmt.Sprint(size), fmt.Sprintf("compression_type=%s,cluster_size=%d", kind, cluster))
					var writes []string
					for i := range int64(20) {
						writes = append(writes, fmt.Sprintf("write -c -P %d %d %d", i, i*2*cluster, cluster))
					}
					m.io(writes...)
					m.snapshots(cluster, size, "a", "b")
				},
			})
		}
	}
	convert := func(name, options string) Case {
		return Case{Name: name, build: func(m *maker) {
			raw := m.rawFile("source.raw", 2*mib)
			m.img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw)
			m.io("write -P 5 100k 300k", "write -z 1M 64k", "discard 1200k 64k")
		}}
	}
	return append(cases,
		convert("compressed-compat-0.10", "compat=0.10"),
		convert("compressed-extended-l2-zlib", "extended_l2=on"),
		convert("compressed-extended-l2-zstd", "extended_l2=on,compression_type=zstd"),
		convert("compressed-refcount-bits-64", "refcount_bits=64"),
		Case{Name: "zstd-without-data", build: func(m *maker) { m.create("1M", "compression_type=zstd") }},
	)
}

// preallocationCases: every way of reserving space in advance.
func preallocationCases() []Case {
	var cases []Case
	for _, mode := range []string{"off", "metadata", "falloc", "full"} {
		for _, options := range []string{"cluster_size=64k", "cluster_size=4k", "compat=0.10", "lazy_refcounts=on"} {
			cases = append(cases, Case{
				Name: fmt.Sprintf("preallocation-%s-%s", mode, nameOf(options)),
				build: func(m *maker) {
					m.create("4100k", "preallocation="+mode, options)
					m.io(fill(64*kib, 4100*kib)...)
					m.snapshots(64*kib, 4100*kib, "a")
				},
			})
		}
	}
	return append(cases, Case{Name: "preallocation-metadata-1G", build: func(m *maker) {
		m.create("1G", "preallocation=metadata")
	}})
}

// nameOf makes an option a part of a case's name.
func nameOf(option string) string {
	name := []byte(option)
	for i, c := range name {
		if c == '=' || c == '_' || c == ',' {
			name[i] = '-'
		}
	}
	return string(name)
}
