//go:build !linux || !(amd64 || arm64)

package stack

import "context"

// Check returns an error that wraps [errors.ErrUnsupported].
func Check(context.Context) (*Report, error) { return nil, errUnsupported }

func reasonOf(err error) (why, remedy string) { return err.Error(), "" }
