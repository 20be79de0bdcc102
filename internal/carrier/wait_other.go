//go:build !linux

package carrier

type (
	waiter struct{}
	system struct{}
)
