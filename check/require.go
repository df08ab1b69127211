package check

// BitmapRequirement is a bitmap that an image must have.
type BitmapRequirement struct {
	Name string
	// Granularity is the granularity in bytes that it must have. The default
	// is 0: any.
	Granularity uint64
	// State is the state that it must be in. The default is "": enabled or
	// disabled, but usable.
	State BitmapState
}
