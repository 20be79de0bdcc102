//go:build !linux

package packet

type (
	waiter struct{}
	system struct{}
)
