package check

func (c *run) predictOpen() error       { return nil }
func (c *run) checkRequirements() error { return nil }
