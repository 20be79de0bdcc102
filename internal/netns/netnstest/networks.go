package netnstest

import (
	"testing"

	"github.com/vdestack/vdestack/internal/memnet"
)

// InUserSpace makes the networks mem:// of a test as a kernel without bridges does.
func InUserSpace(t testing.TB) {
	memnet.UserSpace.Store(true)
	t.Cleanup(func() { memnet.UserSpace.Store(false) })
}

// OnNetworks runs a test on each kind of network that joins stacks of a process.
func OnNetworks(t *testing.T, test func(t *testing.T, vnl string)) {
	OnKernelNetworks(t, test)
	t.Run("mem in user space", func(t *testing.T) {
		InUserSpace(t)
		NoLeaks(t)
		test(t, "mem://"+t.Name())
	})
}

// OnKernelNetworks runs a test on those that the kernel switches.
func OnKernelNetworks(t *testing.T, test func(t *testing.T, vnl string)) {
	for _, scheme := range []string{"lan", "mem"} {
		t.Run(scheme, func(t *testing.T) {
			NoLeaks(t)
			test(t, scheme+"://"+t.Name())
		})
	}
}
