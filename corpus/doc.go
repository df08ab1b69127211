// Package corpus makes qcow2 images: sound ones from a description, broken ones
// by exact damage, each with the findings that a check must give.
//
//	Spec ──Build──▶ Image ──Damage──▶ Image ──check.Run──▶ findings = Want
//	                  │
//	                  └ layout: where every structure stands, by Place
//
// A [Spec] tells the features of an image and what was done to it: writes,
// snapshots, discards, a resize. [Build] does that to an image in memory, with
// clusters allocated, shared and copied as QEMU does it, so that a real QEMU
// finds the result sound and reads the guest data that [Image.Guest] tells.
//
// A [Damage] changes bytes of a structure that a [Place] names, "L2 entry of
// guest offset 0x10000", and nothing else. The place is found by what the builder
// did, so that one damage does not lead the next one astray.
//
// A [Case] joins the two under a name, with a story, what a check must find, and
// what QEMU does. [Cases] lists them all; [Export] writes them to files.
//
// Everything is deterministic: the same description gives the same bytes on every
// machine. Images are sparse, in memory as in files.
package corpus
