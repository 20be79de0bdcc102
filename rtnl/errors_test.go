package rtnl

import (
	"errors"
	"syscall"
	"testing"
)

// TestHint explains what a kernel without words of its own says.
func TestHint(t *testing.T) {
	const absent = "there is no such interface"
	tests := []struct {
		op    string
		errno syscall.Errno
		want  string
	}{
		{"add route", syscall.EPERM, "it takes CAP_NET_ADMIN over the stack"},
		{"set up", syscall.ENODEV, absent},
		{"look up", syscall.ENODEV, absent},
		{"add address", syscall.ENODEV, absent},
		{"add route", syscall.ENODEV, "there is no such interface, or the route has neither interface nor gateway"},
		{"add", syscall.EEXIST, "the name or the index is taken"},
		{"set name \"a\" of", syscall.EEXIST, "the name is taken"},
		{"add route", syscall.EEXIST, "there is one already"},
		{"add neighbour", syscall.EEXIST, "there is one already"},
		{"delete route", syscall.ESRCH, "there is none"},
		{"delete neighbour", syscall.ENOENT, "there is none"},
		{"add route", syscall.ENETUNREACH, "the gateway is in no network of an interface that is up"},
		{"add route", syscall.EHOSTUNREACH, "the gateway is in no network of an interface that is up"},
		{"delete address", syscall.EADDRNOTAVAIL, "the interface does not have it"},
		{"set hardware address of", syscall.EADDRNOTAVAIL, "a hardware address is neither zero nor a group's"},
		{"add", syscall.EADDRNOTAVAIL, "a hardware address is neither zero nor a group's"},
		{"add address", syscall.EADDRNOTAVAIL, ""},
		{"add", syscall.EINVAL, "the kind needs a parameter, as a vlan its Parent, or one is wrong, as a Master that is not there"},
		{"set master 9 of", syscall.EINVAL, "there is no interface with the index of the master"},
		{"set MTU 9 of", syscall.EINVAL, "the interface does not take this MTU"},
		{"set down", syscall.EINVAL, "0 is no interface"},
		{"delete", syscall.EINVAL, "0 is no interface"},
		{"delete", syscall.EOPNOTSUPP, "the kernel keeps this interface"},
		{"set master 9 of", syscall.EOPNOTSUPP, "the master is no bridge, or the interface cannot be a port"},
		{"add", syscall.EOPNOTSUPP, "the kernel does not have this kind: modprobe"},
		{"set name \"a\" of", syscall.EBUSY, "set the interface down first"},
		{"list links", syscall.EFAULT, ""},
	}
	for _, tt := range tests {
		err := fail(tt.op, ifIndex(3), &Error{Err: tt.errno})
		want := "rtnl: " + tt.op + " interface 3: " + tt.errno.Error()
		if tt.want != "" {
			want += " (" + tt.want + ")"
		}
		if err.Error() != want || !errors.Is(err, tt.errno) {
			t.Errorf("got\n\t%v\nwant\n\t%s", err, want)
		}
	}
	words := fail("delete", ifIndex(3), &Error{Err: syscall.EINVAL, Msg: "the kernel's own"})
	if got := words.Error(); got != "rtnl: delete interface 3: invalid argument (the kernel's own)" {
		t.Errorf("got %s", got)
	}
}
