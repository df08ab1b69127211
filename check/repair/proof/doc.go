// Package proof holds that a repair is safe before its first write. It is given the
// image, the edits of a plan, what the plan declares, and what the user has allowed,
// and shares no decision with whoever made the plan: it reads both images, the one
// there is and the one there would be, and compares them.
//
// What it proves:
//
//   - Every guest cluster of the active disk and of each snapshot is said to be where
//     it was said to be before, or is a copy of the same bytes; and no edit touches
//     these bytes. "Said" is what an L2 entry claims, whether it can be read or not: an
//     entry that leads nowhere is evidence, too, and is not dropped in silence.
//   - What is said otherwise was declared: as lost, with leave to lose data; as hung
//     back, with leave to do that; or as a flipped bit that is put back. Nothing is
//     declared lost that is kept.
//   - A bitmap that can be used afterwards has every bit that its bytes had before,
//     those behind its last one included, or is all dirty.
//   - No cluster with data becomes free unless nothing referred to it and no
//     structure was in doubt when the image was checked before the repair, or the plan
//     gives up what it belonged to.
//   - Only metadata that was known before, free clusters and the header are written.
//
// Where two structures lie in one place, or a cluster is no L2 table, as the check
// before the repair has found, what the guest reads there is not its data and is not
// protected; but the entry that leads there is.
package proof
