// Package repair mends qcow2 images: it works out a plan in memory, writes an undo
// journal, applies the plan, and can take it back.
//
// Most of its tests take minutes, and run with `go test -tags repair ./check/repair`
// only.
package repair
