package check

import (
	"context"
	"sync"
	"sync/atomic"
)

// inOrder runs work(worker, i) for i from 0 to n-1 on several goroutines and
// hands each result to merge, in the order of i, from one goroutine at a time.
// Results wait for their turn only as far as a few for each worker, so that
// memory does not grow with n. It ends early when ctx does, with its error. A
// panic in work or merge is raised again in the caller.
func inOrder[T any](ctx context.Context, workers, n int, work func(worker, i int) T, merge func(i int, result T)) error {
	workers = max(1, min(workers, n))
	if workers == 1 {
		for i := range n {
			if err := ctx.Err(); err != nil {
				return err
			}
			merge(i, work(0, i))
		}
		return ctx.Err()
	}

	var (
		ahead   = 4 * workers
		results = make([]chan T, ahead) // slot i%ahead
		room    = make(chan struct{}, ahead)
		stop    = make(chan struct{})
		next    atomic.Int64
		wg      sync.WaitGroup
		once    sync.Once
		failure any
	)
	for i := range results {
		results[i] = make(chan T, 1)
	}
	fail := func(r any) {
		once.Do(func() {
			failure = r
			close(stop)
		})
	}
	for worker := range workers {
		wg.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					fail(r)
				}
			}()
			for {
				// A place must be had before a number is: the lowest number
				// under way then always has one, and its turn comes.
				select {
				case room <- struct{}{}:
				case <-stop:
					return
				}
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				results[i%ahead] <- work(worker, i)
			}
		})
	}
	err := func() error {
		defer func() {
			if r := recover(); r != nil {
				fail(r)
			}
		}()
		for i := range n {
			select {
			case r := <-results[i%ahead]:
				merge(i, r)
				<-room
			case <-stop:
				return nil
			case <-ctx.Done():
				fail(nil)
				return ctx.Err()
			}
		}
		fail(nil)
		return nil
	}()
	wg.Wait()
	if failure != nil {
		panic(failure)
	}
	return err
}
