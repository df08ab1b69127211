// Package fuzz makes broken images by the thousand, for whoever writes a parser of
// the format: it takes an image of the corpus and changes what the format gives a
// meaning to, one field after the other, so that most of the changes reach code
// that random bytes never would.
//
//	corpus case ─build─▶ image ─mutate─▶ image ─mutate─▶ … ─▶ a check, or any command
//	                            └─ a list of mutations, each told in words
//
// A [Mutant] is the name of a case and such a list; it can be stored as JSON and
// made again anywhere. [NewMutant] makes the mutant of a number: the same number is
// always the same mutant. [Mutant.Minimise] takes mutations away while the image still
// does what it is kept for.
//
// Threat model: none. What runs on the mutants must expect anything; this package
// writes only where it is told to.
package fuzz
