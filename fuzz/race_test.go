//go:build race

package fuzz_test

func init() { raceDetector = true }
