package fuzz

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// stateName is the file in Out that says where a session has come to.
const stateName = "state.json"

// state is where a session has come to.
type state struct {
	Images int      `json:"images"` // that mutants are made of: with others the numbers are others'
	Next   uint64   `json:"next"`   // the first number that was not looked at
	Left   []uint64 `json:"left"`   // numbers before it that are still to come
}

// saveState writes where the session has come to.
func (s *session) saveState() error {
	if !s.Resume || s.Out == "" || s.order == nil {
		return nil
	}
	text, err := json.Marshal(state{s.order.names, s.order.next, s.order.window})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Out, stateName), append(text, '\n'), 0o666)
}

// resume goes on where the session before it in the same folder has stopped, if there
// was one.
func (s *session) resume() error {
	path := filepath.Join(s.Out, stateName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var st state
	if err := json.Unmarshal(text, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if st.Images != s.order.names {
		return fmt.Errorf("%s is of a session with %d images, and this one has %d: their numbers are others'", path, st.Images, s.order.names)
	}
	s.order.next, s.order.window = st.Next, st.Left
	if s.Runs > 0 {
		s.order.end = st.Next + s.Runs - min(s.Runs, uint64(len(st.Left)))
	}
	return nil
}
