package chain_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/chain"
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/qcow2"
)

// file is a file of a chain in memory; its number tells it from others.
type file struct {
	io.ReaderAt
	size   int64
	number int
	closed *int
}

func (f file) Size() int64  { return f.size }
func (f file) Name() string { return fmt.Sprintf("file-%d", f.number) }
func (f file) Close() error { *f.closed++; return nil }

func (f file) Same(other chain.File) bool { return other.(file).number == f.number }

func overlay(t *testing.T) (data []byte) {
	t.Helper()
	img, err := corpus.Build(corpus.Spec{ClusterBits: 9, Size: 1 << 16, Backing: &corpus.Backing{Name: "below", Format: "qcow2", Size: 1 << 16}})
	require.NoError(t, err)
	var b bytes.Buffer
	_, err = io.Copy(&b, io.NewSectionReader(img, 0, img.Size()))
	require.NoError(t, err)
	return b.Bytes()
}

// run checks a chain in which every file names another; numbers gives each its number.
func run(t *testing.T, data []byte, number func(i int) int) (c *chain.Chain, opened, closed int) {
	t.Helper()
	at := func(n int) file { return file{bytes.NewReader(data), int64(len(data)), n, &closed} }
	img, err := qcow2.Open(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	c, err = chain.Run(context.Background(), at(number(0)), img, chain.Options{Open: func(chain.File, string, string) (chain.File, error) {
		opened++
		return at(number(opened)), nil
	}})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	return c, opened, closed
}

// A chain without an end is left at some depth, and said not to have been checked; a loop
// is found whatever its length. Every file that was opened is closed.
func TestChainsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	data := overlay(t)
	c, opened, closed := run(t, data, func(i int) int { return i })
	assert.Len(t, c.Layers, chain.MaxDepth+1)
	assert.Equal(t, opened, closed)
	assert.Equal(t, check.VerdictIncomplete, c.Layers[0].Result.Verdict)
	assert.True(t, c.Layers[chain.MaxDepth].Result.Has(problem.Unreadable))
	assert.True(t, c.Layers[0].Result.Has(problem.BackingUnsound))

	for _, length := range []int{1, 2, 7} {
		c, opened, closed := run(t, data, func(i int) int { return i % length })
		assert.Len(t, c.Layers, length)
		assert.Equal(t, opened, closed)
		assert.Equal(t, check.VerdictCorrupt, c.Layers[0].Result.Verdict)
		assert.True(t, c.Layers[length-1].Result.Has(problem.BackingUnreadable))
	}
}
