package netns

// cloneArgs orders the arguments of clone as the architecture has them.
func cloneArgs(flags, stack, ptid, ctid uintptr) [6]uintptr {
	return [6]uintptr{flags, stack, ptid, ctid, 0}
}
