package main

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/repair"
	"github.com/qcheck/qcheck/check/repair/proof"
)

func TestByteSize(t *testing.T) {
	for text, want := range map[string]uint64{
		"1": 1, "4096": 4096, "64k": 64 << 10, "64K": 64 << 10, "512M": 512 << 20, "512MB": 512 << 20, "2GiB": 2 << 30, "1T": 1 << 40,
		"7E": 7 << 60, "9223372036854775807": 1<<63 - 1,
	} {
		var b byteSize
		require.NoError(t, b.UnmarshalText([]byte(text)), "%s", text)
		assert.Equal(t, byteSize(want), b, "%s", text)
	}
	for _, text := range []string{"", "0", "0k", "k", "-1", "+1", "1.5G", "1x", "8E", "9223372036854775808", "1 k", "0x10"} {
		var b byteSize
		assert.Error(t, b.UnmarshalText([]byte(text)), "%q", text)
	}
}

func TestNumber(t *testing.T) {
	var n number
	require.NoError(t, n.UnmarshalText([]byte("2147483647")))
	assert.Equal(t, number(2147483647), n)
	for _, text := range []string{"", "0", "-1", "+1", "2147483648", "99999999999999999999", "1k", "x"} {
		assert.Error(t, n.UnmarshalText([]byte(text)), "%q", text)
	}
}

// Names in an image are relative to the image, as QEMU takes them.
func TestSiblingPath(t *testing.T) {
	for _, tt := range []struct{ image, name, want string }{
		{"/vm/disk.qcow2", "base.raw", "/vm/base.raw"},
		{"/vm/disk.qcow2", "../base.raw", "/vm/../base.raw"},
		{"/vm/disk.qcow2", "/other/base.raw", "/other/base.raw"},
		{"disk.qcow2", "base.raw", "base.raw"},
		{"vm/disk.qcow2", "sub/base.raw", "vm/sub/base.raw"},
		{"/vm/disk.qcow2", "file:base.raw", "base.raw"},
		{"/vm/disk.qcow2", "file:///vm2/base.raw", "///vm2/base.raw"},
		{"/vm/disk.qcow2", "./nbd:base.raw", "/vm/./nbd:base.raw"},
	} {
		got, err := siblingPath(tt.image, tt.name)
		require.NoError(t, err, "%s", tt.name)
		assert.Equal(t, tt.want, got)
	}
	for _, name := range []string{"nbd:localhost:10809", `json:{"driver":"qcow2"}`, "nbd+unix:///?socket=/run/x", "rbd:pool/image"} {
		_, err := siblingPath("/vm/disk.qcow2", name)
		assert.ErrorIs(t, err, errProtocol, "%s", name)
	}
	for _, name := range []string{"", "file:"} {
		_, err := siblingPath("/vm/disk.qcow2", name)
		assert.Error(t, err, "%q", name)
	}
}

// The worst image decides, in the order of what weighs most.
func TestWorse(t *testing.T) {
	order := []exitCode{exitTrouble, exitCorrupt, exitLeaks, exitUnmet, exitSound, exitNotQcow2}
	for i, worst := range order {
		for _, other := range order[i:] {
			assert.Equal(t, worst, worse([]exitCode{worst, other}))
			assert.Equal(t, worst, worse([]exitCode{other, worst, other}))
		}
	}
	assert.Equal(t, exitSound, worse(nil))
}

func TestExitCode(t *testing.T) {
	for verdict, want := range map[check.Verdict]exitCode{
		check.VerdictClean: exitSound, check.VerdictWarnings: exitSound, check.VerdictLeaks: exitLeaks, check.VerdictCorrupt: exitCorrupt,
		check.VerdictIncomplete: exitTrouble, check.VerdictUnsupported: exitTrouble,
	} {
		assert.Equal(t, want, codeOf(&check.Result{Verdict: verdict}), "%s", verdict)
		if want == exitSound {
			want = exitUnmet
		}
		assert.Equal(t, want, codeOf(&check.Result{Verdict: verdict, Unmet: []string{"a bitmap"}}), "%s, unmet", verdict)
	}
}

// A plan that is refused is told as such, and what to do about it.
func TestRefusedPlan(t *testing.T) {
	err := planError(&repair.RefusedError{Err: &proof.Error{Reason: "guest data is freed", Offset: 0x50000}})
	failure, ok := errors.AsType[*repairFailure](err)
	require.True(t, ok)
	assert.NotEmpty(t, failure.hint)
	refused, ok := errors.AsType[*repair.RefusedError](failure.err)
	require.True(t, ok)
	assert.ErrorAs(t, refused, new(*proof.Error))
}
