// Package rescue makes a sound image of what is left of a damaged one: of a file whose
// header, L1 table, L2 tables, refcounts, snapshot table or bitmap directory is gone. It
// finds the structures by what they hold.
//
//	scan       the allocated part of the file, once: which sectors can be part of what
//	geometry   the cluster size, and the width of L2 entries, that make sense of them
//	tables     every cluster that is an L2 table, and what it maps
//	roots      refcount table, L1 tables, snapshot table, bitmap directory, LUKS header
//	model      the header that leads to all that; what is known, and from where
//	plan       the image with that header, repaired: refcounts are counted anew
//
// A rescue may miss something, but it never puts data where it does not belong. What is
// only likely is a guess: it is named, and left out unless [Options.AcceptGuesses] is set.
//
// Nothing is written here. A [Plan] is a list of changes to the file; whoever carries it
// out applies it to a copy, or to the file itself under an undo journal.
//
// # Threat model
//
// The file may have been made to do harm. Nothing is allocated by what it claims: lists
// grow with the sectors that were read, up to bounds, and every offset is compared with
// the file's size. What a bound cuts off is reported as incomplete.
package rescue
