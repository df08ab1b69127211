package main

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestDefaultMemory(t *testing.T) {
	assert.EqualValues(t, 0, shareOf(0), "not known")
	assert.EqualValues(t, leastMemory, shareOf(1))
	assert.EqualValues(t, 4<<30, shareOf(8<<30))
	if runtime.GOOS == "linux" {
		assert.GreaterOrEqual(t, defaultMemory(), int64(leastMemory))
	}
}
