package fuzz_test

import (
	"context"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/corpus"
)

// storeFile is a [repair.File] in memory.
type storeFile struct{ *corpus.Store }

func (f storeFile) Sync() error                 { return nil }
func (f storeFile) CurrentSize() (int64, error) { return f.Size(), nil }
func (f storeFile) Truncate(size int64) error {
	f.Store.Truncate(size)
	return nil
}

// storeJournals is the place of an undo journal in memory.
type storeJournals struct{ journal *corpus.Store }

func (j *storeJournals) Create() (repair.JournalFile, error) {
	if j.journal != nil {
		return nil, fs.ErrExist
	}
	j.journal = corpus.NewStore(0)
	return openJournal{j.journal}, nil
}

func (j *storeJournals) Open() (repair.JournalFile, error) {
	if j.journal == nil {
		return nil, fs.ErrNotExist
	}
	return openJournal{j.journal}, nil
}

func (j *storeJournals) Publish() error { return nil }
func (j *storeJournals) Remove() error  { j.journal = nil; return nil }
func (j *storeJournals) SyncDir() error { return nil }

type openJournal struct{ *corpus.Store }

func (openJournal) Sync() error  { return nil }
func (openJournal) Close() error { return nil }

// verifyUndo carries a plan out, asserts that the image is then what the plan says,
// takes it back, and asserts that every byte is what it was.
func verifyUndo(ctx context.Context, t testing.TB, img, planned *corpus.Image, plan *repair.Plan, said string) {
	t.Helper()
	before := img.Sum()
	f, js := storeFile{img.Clone().Store}, &storeJournals{}
	_, err := repair.Apply(ctx, f, plan, js, repair.ApplyOptions{})
	require.NoError(t, err, said)
	require.Equal(t, planned.Sum(), f.Sum(), "the repaired image is not what was planned: %s", said)
	_, err = repair.TakeBack(f, js)
	require.NoError(t, err, said)
	require.Equal(t, img.Size(), f.Size(), said)
	require.Equal(t, before, f.Sum(), "the image that was taken back is not what it was: %s", said)
}
