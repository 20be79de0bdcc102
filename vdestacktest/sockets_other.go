//go:build !linux

package vdestacktest

import (
	"errors"

	"github.com/vdestack/vdestack"
)

func sockets(*vdestack.Stack) ([]string, error) { return nil, errors.ErrUnsupported }
