// Package refcount counts the references to the clusters of a qcow2 file
// ([Counts]) and compares them with the refcounts that the file keeps
// ([Table], [Compare]). It judges nothing: what a difference means, and which
// refcount blocks can be trusted, is for its caller to say.
//
//	      what the references say                what the file says
//
//	L1, L2, snapshots, bitmaps, …        refcount table (one entry a block)
//	          │ Claim                        │           │           │
//	          ▼                              ▼           ▼           ▼
//	 ┌──────────── Counts ───────────┐   ┌───────┐   ┌───────┐   ┌ ─ ─ ─ ┐
//	 │ chunk 0    chunk 1    chunk 9 │   │ block │   │ block │     none
//	 └──────────┬────────────────────┘   └───┬───┘   └───┬───┘   └ ─ ─ ─ ┘
//	            │       Compare              │           │
//	            └───────────►  runs that differ  ◄───────┘
//
// # How references are counted
//
// Host clusters are counted in chunks of 65,536, which a hash table finds; a
// chunk exists once one of its clusters is claimed.
//
//	a few claims      list of runs          16 bytes for each run, however long
//	more claims       plane ≥1              1 bit a cluster
//	                  plane ≥2              1 bit, in chunks where it is needed
//	                  plane for each mark   1 bit, in chunks where it is needed
//	                  counters              references beyond the second, 2 to 64
//	                                        bits a cluster, for 4,096 clusters at
//	                                        a time, where they are needed
//
// Planes are set by atomic OR, 64 clusters at once: whoever finds a bit clear
// has made the first reference, whoever finds it set goes on to the next plane,
// and only who comes to the counters takes the chunk's lock. An image without
// snapshots whose mapping is contiguous takes a few bytes for each of its L2
// tables; one that is shuffled takes a bit a cluster, and another for COPIED.
//
// # How they are compared
//
// Units of half a mebibyte of refcounts are read in the order of the file, and
// compared by several goroutines with the chunks that they cover, most of them
// whole stretches at a time. The outcome is put together in ascending order and
// is the same for any number of goroutines.
//
// # Threat model
//
// Everything comes from a file that may have been made to do harm. The memory
// of a Counts follows the number of claims, each of which stands for 8 bytes
// read, and never an offset or a length: a reference to cluster 2^54 costs as
// much as one to cluster 1, and a run of any length what a single cluster does
// (for each chunk that it touches). A chunk gets planes only after as many
// claims as justify them, and a count that is large does not widen its
// neighbours' counters. The hash is seeded, so that no file can make chunks
// collide. [Options.MaxMemory] bounds all of it. Counts saturate. A table
// entry may name any place: what lies where no file reaches is an error of that
// block alone, and where the reader knows holes they are not read, so that a
// sparse file cannot make a comparison last for ever.
package refcount
