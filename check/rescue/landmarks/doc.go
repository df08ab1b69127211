// Package landmarks tells from what a guest has stored where on its disk that belongs.
//
// The mapping of a disk is known in pieces: an L2 table maps a range of it in order, and
// only where that range starts is not known when the L1 table is lost. A piece is known by
// a number. Many things that file systems and partition tables store say where they lie,
// or how far from each other, or how long the disk is. The scanner is shown the clusters
// of all pieces, one after the other, in any order, and keeps only what they say of that.
//
// A landmark is proof only where its checksum is right, where the address that it carries
// agrees with what the others in its piece say, and where nothing contradicts it. What is
// stored in a file of the guest, as the disks of machines within the machine are, has
// landmarks too, which are right on their disk and wrong on ours. So only a file system
// counts that the outermost label names, or that fills the disk; and what may be the
// outermost must be able to start at the start of the disk. Journals hold copies of blocks
// that carry the address of the original: those count only where no block of a journal
// lies beside them that has no business there.
package landmarks
