package check

import (
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// ptr makes a pointer to a value, for the optional fields of a finding.
func ptr[T any](v T) *T { return &v }

// hex formats a value seen in the image.
func hex[T ~uint64 | ~uint32 | ~uint16 | ~uint8](v T) string { return fmt.Sprintf("0x%x", uint64(v)) }

// at makes the extent of a finding.
func at[T ~uint64 | ~int](offset qcow2.HostOffset, length T) qcow2.Extent {
	return qcow2.Extent{Offset: offset, Length: uint64(length)}
}
