package fuzz

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// The shortest list is found where taking one away at a time leads to another.
func TestMinimise(t *testing.T) {
	full := &Mutant{}
	for _, name := range []string{"a", "b", "c", "d"} {
		full.Mutations = append(full.Mutations, Mutation{Text: name})
	}
	names := func(m *Mutant) (s string) {
		for i := range m.Mutations {
			s += m.Mutations[i].Text
		}
		return s
	}
	for _, test := range []struct {
		want string
		keep func(have string) bool
	}{
		{"", func(string) bool { return true }},
		{"abcd", func(have string) bool { return have == "abcd" }},
		{"bd", func(have string) bool { return strings.Contains(have, "b") && strings.Contains(have, "d") }},
		{"c", func(have string) bool { return strings.HasPrefix(have, "ab") || have == "c" }},
		{"bd", func(have string) bool { return strings.HasPrefix(have, "abc") || have == "bd" }},
	} {
		got := full.Minimise(func(m *Mutant) bool { return test.keep(names(m)) })
		assert.Equal(t, test.want, names(got))
		assert.Equal(t, "abcd", names(full), "the mutant itself stays as it is")
	}
}

// Of a mutation what matters is left, whatever stands around it.
func TestMinimiseBytes(t *testing.T) {
	for _, test := range []struct {
		name       string
		m          Mutation
		need, upTo uint64 // the bytes that matter
		from       uint64 // that are copied to need
	}{
		{"write", Mutation{Op: OpWrite, At: 40, Bytes: []byte{1, 2, 3, 4, 5, 6, 7, 8}, Text: "x"}, 43, 45, 0},
		{"wipe", Mutation{Op: OpWipe, At: 4096, Length: 65536, Text: "x"}, 5000, 5001, 0},
		{"copy", Mutation{Op: OpCopy, At: 4096, From: 8192, Length: 512, Text: "x"}, 4600, 4601, 8696},
		{"across the middle", Mutation{Op: OpSwap, At: 4096, From: 8192, Length: 512, Text: "x"}, 4348, 4360, 8444},
		{"the first", Mutation{Op: OpWipe, At: 4096, Length: 512, Text: "x"}, 4096, 4097, 0},
		{"the last", Mutation{Op: OpWipe, At: 4096, Length: 511, Text: "x"}, 4606, 4607, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := (&Mutant{Mutations: []Mutation{test.m}}).minimiseBytes(func(m *Mutant) bool {
				mu := &m.Mutations[0]
				return mu.At <= test.need && mu.At+mu.length() >= test.upTo
			}).Mutations[0]
			assert.Equal(t, test.need, got.At)
			assert.Equal(t, test.upTo-test.need, got.length())
			assert.Equal(t, test.from, got.From)
			if got.Op == OpWrite {
				assert.Equal(t, []byte{4, 5}, got.Bytes)
			}
			assert.Equal(t, "x", got.whole())
			assert.NotEqual(t, "x", got.Text)
		})
	}
}
