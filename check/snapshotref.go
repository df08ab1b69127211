package check

import (
	"fmt"

	"github.com/qcheck/qcheck/qcow2"
)

// snapshotName is how findings name a snapshot to a reader: by its ID, by its name where
// the ID is empty, and by its entry where both are.
func snapshotName(i int, s *qcow2.Snapshot) string {
	switch {
	case len(s.ID) > 0:
		return ownerName(s.ID)
	case len(s.Name) > 0:
		return ownerName(s.Name)
	}
	return fmt.Sprintf("(entry %d)", i)
}
