//go:build !linux

package netns

// Limited returns the error.
func Limited(err error) error { return err }
