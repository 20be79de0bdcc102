//go:build !race

package testenv

// Race says that the race detector is on, which empties pools now and then.
const Race = false
