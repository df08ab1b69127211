package repair

import "context"

func (s *session) fixHeader(context.Context) (bool, error)    { return false, nil }
func (s *session) fixBitmaps(context.Context) (bool, error)   { return false, nil }
func (s *session) fixSnapshots(context.Context) (bool, error) { return false, nil }
func (s *session) fixMarks(context.Context) (bool, error)     { return false, nil }
