// Package refcount counts the references to the clusters of a qcow2 file and
// compares them with the refcounts that the file keeps.
package refcount
