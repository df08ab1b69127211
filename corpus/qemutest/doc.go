// Package qemutest lets the project's tests use a real QEMU: qemu-img and qemu-io to make, change and
// judge images, and qemu-storage-daemon as a small hypervisor that can be asked over QMP and killed.
//
//	             ┌── Img, IO, Check, Info, Map ──▶ qemu-img, qemu-io      (one process a call)
//	a test ──────┤
//	             └── Serve ──▶ Daemon ──▶ qemu-storage-daemon             (lives until the test ends)
//	                             │  Do            QMP over an inherited socket pair
//	                             │  IO            guest writes: qemu-io through an NBD export
//	                             │  SHA256        what QEMU says a dirty bitmap holds
//	                             └─ Quit, Kill9   a clean end, or a bitmap left in use
//
// [Matrix] lists every kind of image that QEMU can make, as builders.
//
// The package imports nothing of the project, so that any test of it can use the package. All of it is
// bounded: each process has a time limit, and none outlives its test (on Linux not even a test binary
// that is killed).
//
// The binaries are looked for in the directory that the environment variable QCHECK_QEMU_DIR names, then
// in PATH. A test without them is skipped; where CI=true it fails instead, so that a continuous
// integration never passes by not having looked.
package qemutest
