//go:build repair

package main

func init() { everyCase = true }
