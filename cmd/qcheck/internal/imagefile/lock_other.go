//go:build !linux

package imagefile

import "syscall"

// locks stands for QEMU's image locks, which QEMU itself only takes where there
// are open file description locks.
type locks struct{}

func newLocks(syscall.RawConn) locks { return locks{} }

func (locks) take(lockPlan) (LockState, error) { return LockOff, nil }
func (locks) anyLocked([]int64) bool           { return false }
func (locks) drop()                            {}
