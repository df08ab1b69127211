package fuzz

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/fuzz/internal/process"
)

// mostCalibrated is how many sound images a command is tried on before the mutants.
const mostCalibrated = 48

// enoughFailed is how many failures on sound images are enough where it has accepted
// none: each may take the time of a hang.
const enoughFailed = 4

// ErrAcceptsNothing is the error of a command that accepts no sound image: it is likely
// that the command is wrong, and that nothing would be tried.
var ErrAcceptsNothing = errors.New("the command fails on every sound image")

// Calibration is what came of the sound images that a command was tried on first.
type Calibration struct {
	Tried, Accepted int
	// SetAside are images on which the command crashed, hung or took too much memory as
	// they are: no mutants are made of them.
	SetAside []string
}

// calibrate runs the command on sound images as they are. Those on which it fails in a
// way that counts are failures by themselves; no mutants are made of them.
func (s *session) calibrate(ctx context.Context, dir string) error {
	var sound []string
	for _, name := range s.names {
		if c, ok := corpus.Lookup(name); s.Images.Folder != "" || ok && c.Healthy() {
			sound = append(sound, name)
		}
	}
	step := max(1, len(sound)/mostCalibrated)
	last := ""
	for i := 0; i < len(sound) && s.calibration.Tried < mostCalibrated; i += step {
		if s.calibration.Accepted == 0 && len(s.calibration.SetAside) >= enoughFailed {
			break
		}
		_, img, err := s.Images.Build(sound[i])
		if err != nil {
			return err
		}
		f, ran, err := s.execute(ctx, dir, img, nil)
		if err != nil {
			return outside(ctx, err)
		}
		s.calibration.Tried++
		switch {
		case f != nil:
			s.calibration.SetAside = append(s.calibration.SetAside, sound[i])
			f.Mutant = &Mutant{Case: sound[i]}
			if err := s.take(ctx, dir, f); err != nil {
				return err
			}
			s.failed++
		case ran.rc == 0:
			s.calibration.Accepted++
		default:
			last = fmt.Sprintf("exit code %d on %s: %s", ran.rc, sound[i], lastLine(ran.said))
		}
	}
	if s.calibration.Tried > 0 && s.calibration.Accepted == 0 {
		if last == "" {
			last = "it crashes, hangs or takes too much memory on each of them"
		}
		return fmt.Errorf("%w: %s", ErrAcceptsNothing, last)
	}
	s.names = slices.DeleteFunc(slices.Clone(s.names), func(n string) bool { return slices.Contains(s.calibration.SetAside, n) })
	return nil
}

// lastLine is the last line of what a program has said.
func lastLine(said string) string {
	t := &process.Tail{}
	t.Write([]byte(said))
	return t.LastLine()
}
