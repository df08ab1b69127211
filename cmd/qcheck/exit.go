package main

import (
	"errors"
	"fmt"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/qcow2"
)

// exitCode is what a command ends with when it has said all there is to say.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// The exit codes: those of a check, and one for files of other formats.
const (
	exitSound    exitCode = check.ExitSound
	exitTrouble  exitCode = check.ExitTrouble
	exitCorrupt  exitCode = check.ExitCorrupt
	exitLeaks    exitCode = check.ExitLeaks
	exitUnmet    exitCode = check.ExitUnmet
	exitNotQcow2 exitCode = 63
)

// codeOf is the exit code for one image that was checked.
func codeOf(r *check.Result) exitCode { return exitCode(r.ExitCode()) }

// exitOf is the exit code for an error that kept a command from its end.
func exitOf(err error) exitCode {
	if errors.Is(err, qcow2.ErrNotQcow2) {
		return exitNotQcow2
	}
	return exitTrouble
}

// worse joins the exit codes of several images: an image that could not be
// completed weighs most, then corruption, leaks, an unmet requirement; that a
// file is no qcow2 image counts only when that was all there was.
func worse(codes []exitCode) exitCode {
	for _, code := range []exitCode{exitTrouble, exitCorrupt, exitLeaks, exitUnmet} {
		for _, c := range codes {
			if c == code {
				return code
			}
		}
	}
	for _, c := range codes {
		if c != exitNotQcow2 {
			return exitSound
		}
	}
	if len(codes) > 0 {
		return exitNotQcow2
	}
	return exitSound
}
