package check

import (
	"github.com/qcheck/qcheck/qcow2"
)

// ptr makes a pointer to a value, for the optional fields of a finding.
func ptr[T any](v T) *T { return &v }

// at makes the extent of a finding.
func at[T ~uint64 | ~int](offset qcow2.HostOffset, length T) qcow2.Extent {
	return qcow2.Extent{Offset: offset, Length: uint64(length)}
}
