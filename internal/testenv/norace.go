//go:build !race

package testenv

// Race reports whether the race detector is on. It empties pools now and then.
const Race = false
