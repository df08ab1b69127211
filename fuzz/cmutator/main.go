// Command cmutator is a library for fuzzers written in C: it changes qcow2 images by
// their structure. Built with
//
//	go build -buildmode=c-shared -o libqcheckmutator.so github.com/qcheck/qcheck/fuzz/cmutator
//
// it holds the custom mutators of libFuzzer (LLVMFuzzerCustomMutator) and of AFL++
// (AFL_CUSTOM_MUTATOR_LIBRARY=libqcheckmutator.so). qcheck_mutator.h has the prototypes.
package main

// #include <stddef.h>
// #include <stdint.h>
// #include <stdlib.h>
import "C"

import (
	"math/rand/v2"
	"sync"
	"unsafe"

	"github.com/qcheck/qcheck/fuzz"
)

func main() {}

// mutateTo changes the image of n bytes at from, and writes what comes of it to the room
// of most bytes at to.
func mutateTo(to, from *C.uint8_t, n, most C.size_t, seed uint64) C.size_t {
	out := fuzz.MutateBytes(append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(from)), int(n))...), int(most), seed)
	return C.size_t(copy(unsafe.Slice((*byte)(unsafe.Pointer(to)), int(most)), out))
}

// LLVMFuzzerCustomMutator is libFuzzer's: it changes the image in place.
//
//export LLVMFuzzerCustomMutator
func LLVMFuzzerCustomMutator(data *C.uint8_t, size, most C.size_t, seed C.uint) C.size_t {
	return mutateTo(data, data, size, most, uint64(seed))
}

// aflStates are the mutators that AFL++ has made, by what it was given to name them.
var (
	aflMu     sync.Mutex
	aflStates = make(map[unsafe.Pointer]*aflState)
)

type aflState struct {
	rnd  *rand.Rand
	out  *C.uint8_t
	room C.size_t
}

// afl_custom_init makes a mutator.
//
//export afl_custom_init
func afl_custom_init(afl unsafe.Pointer, seed C.uint) unsafe.Pointer {
	p := C.malloc(1) // a name that C may hold
	aflMu.Lock()
	defer aflMu.Unlock()
	aflStates[p] = &aflState{rnd: rand.New(rand.NewPCG(uint64(seed), 1))}
	return p
}

// afl_custom_fuzz changes an image into a buffer of the mutator's.
//
//export afl_custom_fuzz
func afl_custom_fuzz(name unsafe.Pointer, data *C.uint8_t, size C.size_t, out **C.uint8_t, other *C.uint8_t, otherSize, most C.size_t) C.size_t {
	aflMu.Lock()
	defer aflMu.Unlock()
	s := aflStates[name]
	if s == nil || most == 0 {
		return 0
	}
	if s.room < most {
		C.free(unsafe.Pointer(s.out))
		s.out, s.room = (*C.uint8_t)(C.malloc(most)), most
	}
	*out = s.out
	return mutateTo(s.out, data, size, most, s.rnd.Uint64())
}

// afl_custom_deinit ends a mutator.
//
//export afl_custom_deinit
func afl_custom_deinit(name unsafe.Pointer) {
	aflMu.Lock()
	defer aflMu.Unlock()
	if s := aflStates[name]; s != nil {
		C.free(unsafe.Pointer(s.out))
		delete(aflStates, name)
	}
	C.free(name)
}
