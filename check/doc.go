// Package check says everything that is wrong with a qcow2 image, and never
// writes to it.
//
//	img, err := qcow2.Open(file, size)
//	res, err := check.Run(ctx, img, check.Options{})
//	for _, f := range res.Findings { … }
//
// # How a check goes
//
// A check is a list of passes, see check.go. Each looks at one kind of structure,
// reports what is wrong with it and claims the clusters that it takes:
//
//	header ─ extensions ─ encryption ─ data file     where everything is
//	snapshots ─ bitmaps ─ refcount table             tables that are read whole
//	mapping      every L1, then every distinct L2 table once, in the order of
//	             the file; clusters with two owners
//	refcounts    the references that were counted against what the file says;
//	             what owns the clusters that nothing seems to own
//	copied       COPIED flags against the references
//	qemu ─ requirements                              what follows from it all
//
// A structure that is broken does not end the check: its pass says so, and the
// next one goes by what is known. Findings go through one collector (package problem),
// which takes severity, structure and repair from the catalogue (catalog.go and
// its neighbours), joins neighbours, and bounds the list while the totals stay
// exact.
//
// # Leaks
//
// A cluster with a refcount that nothing refers to is a leak only if nothing can
// own it. Whatever may own clusters and could not be read whole and sound is a
// [Doubt]; structures that are lost without a trace of their own are looked for
// (lost.go). While there is a doubt no cluster is called a leak, since a repair
// frees leaks.
//
// # Three kinds of trouble
//
// A finding says that the image is bad. A finding of severity [Trouble] says that
// we could not look (an I/O error, a limit); the verdict is then incomplete. A
// fault of the checker itself is a [PassError].
//
// # Threats
//
// The image may have been made by an enemy. Nothing is allocated because the file
// says so, every range goes through one guard, each structure is read a bounded
// number of times, and strings from the image are escaped in messages. Memory
// follows what the file stores, not what it claims.
package check
