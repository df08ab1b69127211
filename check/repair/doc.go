// Package repair mends qcow2 images: it works out a plan in memory, writes an undo
// journal, applies the plan, and can take it back.
//
// It is being built: the command does not offer it yet. An image whose structures
// overlap is not touched, lossy repairs are not made, and the tests, which take
// minutes, run with `go test -tags repair ./check/repair`.
package repair
