package check

func (c *run) predictOpen() error { return nil }
