package problem

import "fmt"

// Value is what stands in a field, or what should stand there. Two that are equal say the
// same. The zero value says nothing.
type Value struct {
	kind valueKind
	n, m uint64
	text string
}

type valueKind uint8

const (
	noValue valueKind = iota
	aNumber
	aHex
	atLeast
	atLeastHex
	atMost
	atMostHex
	belowHex
	multipleOf
	between
	aFlag
	inWords
)

var valueFormats = [...]string{
	aNumber: "%d", aHex: "0x%x", atLeast: "at least %d", atLeastHex: "at least 0x%x", atMost: "at most %d",
	atMostHex: "at most 0x%x", belowHex: "below 0x%x", multipleOf: "a multiple of 0x%x",
}

type unsigned interface {
	~uint | ~uint64 | ~uint32 | ~uint16 | ~uint8
}

// Number is a count, a size or an index.
func Number[T unsigned | ~int | ~int64](n T) Value { return Value{kind: aNumber, n: uint64(n)} }

// Hex is an offset, or bits.
func Hex[T unsigned](n T) Value { return Value{kind: aHex, n: uint64(n)} }

// AtLeast, AtMost and Between are bounds of numbers, including themselves.
func AtLeast[T unsigned | ~int](n T) Value { return Value{kind: atLeast, n: uint64(n)} }

// AtMost is the upper bound of a number.
func AtMost[T unsigned | ~int](n T) Value { return Value{kind: atMost, n: uint64(n)} }

// Between gives both bounds of a number.
func Between[T unsigned | ~int](least, most T) Value {
	return Value{kind: between, n: uint64(least), m: uint64(most)}
}

// AtLeastOffset, AtMostOffset and Below are bounds of offsets.
func AtLeastOffset[T unsigned](n T) Value { return Value{kind: atLeastHex, n: uint64(n)} }

// AtMostOffset is the last offset that can be.
func AtMostOffset[T unsigned](n T) Value { return Value{kind: atMostHex, n: uint64(n)} }

// Below is the first offset that cannot be.
func Below[T unsigned | ~int64](n T) Value { return Value{kind: belowHex, n: uint64(n)} }

// MultipleOf is an offset of which n is a divisor.
func MultipleOf[T unsigned](n T) Value { return Value{kind: multipleOf, n: uint64(n)} }

// Flag is a bit.
func Flag(set bool) Value {
	if set {
		return Value{kind: aFlag, n: 1}
	}
	return Value{kind: aFlag}
}

// Words is a value that is a text, such as a name. Strings from the image are escaped by
// the caller.
func Words(text string) Value {
	if text == "" {
		return Value{}
	}
	return Value{kind: inWords, text: text}
}

// Num gives the number that a value is; ok is false for all others.
func (v Value) Num() (n uint64, ok bool) { return v.n, v.kind == aNumber || v.kind == aHex }

// IsZero tells that nothing is said.
func (v Value) IsZero() bool { return v.kind == noValue }

// String is empty for the zero value.
func (v Value) String() string {
	switch v.kind {
	case noValue:
		return ""
	case aFlag:
		if v.n == 1 {
			return "set"
		}
		return "clear"
	case between:
		return fmt.Sprintf("%d to %d", v.n, v.m)
	case inWords:
		return v.text
	}
	return fmt.Sprintf(valueFormats[v.kind], v.n)
}
