// Package repair mends qcow2 images: it works out a plan in memory, writes an undo
// journal, applies the plan, and can take it back.
//
//	Make      check ─▶ fixers ─▶ check ─▶ … ─▶ nothing to do ─▶ Plan
//	Apply     journal ─▶ new structures ─▶ mend in place ─▶ header ─▶ release ─▶ verify
//	Recover   what an interrupted Apply, or TakeBack, left behind
//	TakeBack  the image as it was
//
// A plan is made on an overlay over the image: each round checks the image as it would
// be, and lets the fixers go by what that check has found, until none of them finds
// anything to do. So the last check of a plan is already the proof that it does what
// it should, short of the writing itself.
//
// Four rules hold for every fixer. Nothing that the guest can see, and no bit of a
// bitmap that can be trusted, changes unless that was asked for. No cluster is given
// back while something may own it that nobody could read. Nothing is written where
// two structures lie, see [check.Evidence.Contested]. And new structures go to
// clusters that nothing uses, so that the old ones stand until the header, or an entry
// that leads to them, is switched.
package repair
