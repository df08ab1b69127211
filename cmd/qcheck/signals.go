package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// interruption is the first signal that asks a command to end.
type interruption struct {
	ctx    context.Context // done once there is one
	cancel context.CancelFunc
	got    chan os.Signal
	taken  chan os.Signal // the signal, for [interruption.stop]
	ended  chan struct{}
	done   chan struct{} // nobody waits for a signal any more
	once   sync.Once
}

// listen begins to catch signals. The first one ends the command in order; a second one
// need not wait for a disk that does not answer, and ends the program at once.
func listen() *interruption {
	in := &interruption{got: make(chan os.Signal, 1), taken: make(chan os.Signal, 1), ended: make(chan struct{}), done: make(chan struct{})}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(sig) { // as nohup has it, or a shell for what runs in the background
			signal.Notify(in.got, sig)
		}
	}
	go func() {
		defer close(in.done)
		select {
		case sig := <-in.got:
			signal.Stop(in.got)
			in.taken <- sig
			in.cancel()
		case <-in.ended:
		}
	}()
	return in
}

// stop no longer catches signals, so that the next one ends the program at once, and gives
// the one that came, or nil. It misses none: a shell whose loop is to end has been sent it,
// too, and runs on if the program does not die of it.
func (in *interruption) stop() os.Signal {
	in.once.Do(func() {
		signal.Stop(in.got) // it waits for those on their way
		close(in.ended)
	})
	<-in.done
	defer in.cancel()
	select {
	case sig := <-in.taken:
		return sig
	case sig := <-in.got:
		return sig
	default:
		return nil
	}
}

// dieOf ends the program by a signal that it has caught. A shell goes by that: where a
// program ends with an exit code of its own, a loop around it runs on.
func dieOf(sig os.Signal) {
	signal.Reset(sig)
	if p, err := os.FindProcess(os.Getpid()); err == nil && p.Signal(sig) == nil {
		time.Sleep(time.Second) // until it arrives
	}
	code := int(exitTrouble)
	if n, ok := sig.(syscall.Signal); ok {
		code = 128 + int(n)
	}
	os.Exit(code)
}
