package fuzz

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"

	"github.com/qcheck/qcheck/corpus"
)

// choiceBytes is how much of a byte string a choice takes.
const choiceBytes = 2

// choiceSource is a source of choices that come from a byte string, and from a fixed
// sequence behind its end.
type choiceSource struct {
	left []byte
	rest *rand.PCG
}

// Uint64 gives the next choice. Its bytes stand in each part of the number, since those
// who ask look at different ones.
func (c *choiceSource) Uint64() uint64 {
	if len(c.left) == 0 {
		return c.rest.Uint64()
	}
	var b [choiceBytes]byte
	n := copy(b[:], c.left)
	c.left = c.left[n:]
	return uint64(binary.BigEndian.Uint16(b[:])) * 0x0001_0001_0001_0001
}

// ErrNoImages is the error of having nothing that a mutant can be made of.
var ErrNoImages = errors.New("there is no image to make mutants of")

// NewMutantFrom makes a mutant by choices that a byte string tells: the image first, then
// one change after the other while there are bytes left, at most six. The same bytes give
// the same mutant, and bytes that differ little a mutant that differs little, so that a
// fuzzer that changes the bytes by what its target covers changes the image by its
// structure. Every string gives a mutant, the empty one an image as it is.
func NewMutantFrom(images *Images, choices []byte) (*Mutant, *corpus.Image, error) {
	names, err := images.Names()
	if err != nil {
		return nil, nil, err
	}
	if len(names) == 0 {
		return nil, nil, ErrNoImages
	}
	src := &choiceSource{left: choices, rest: rand.NewPCG(1, 2)}
	rnd := rand.New(src)
	// Not by rnd, which takes another choice where one would favour some of the images.
	m := &Mutant{Case: names[src.Uint64()&0xffff*uint64(len(names))>>16]}
	_, img, err := images.Build(m.Case)
	if err != nil {
		return nil, nil, err
	}
	for len(m.Mutations) < maxMutations && len(src.left) > 0 {
		had := len(src.left)
		if mu, ok := mutate(rnd, img.Store); ok {
			mu.apply(img.Store)
			m.Mutations = append(m.Mutations, mu)
		}
		if len(src.left) == had {
			src.Uint64() // nothing had to be chosen: the bytes come to an end all the same
		}
	}
	return m, img, nil
}
