package rtnl

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// TestHint explains an errno where the kernel does not.
func TestHint(t *testing.T) {
	const absent = "there is no such interface"
	tests := []struct {
		op    string
		errno syscall.Errno
		want  string
	}{
		{"add route", syscall.EPERM, "this needs CAP_NET_ADMIN over the stack"},
		{"set up", syscall.ENODEV, absent},
		{"look up", syscall.ENODEV, absent},
		{"add address", syscall.ENODEV, absent},
		{"add route", syscall.ENODEV, "there is no such interface, or the route has neither interface nor gateway"},
		{"add", syscall.EEXIST, "the name or the index is taken"},
		{"set name \"a\" of", syscall.EEXIST, "the name is taken"},
		{"add route", syscall.EEXIST, "it exists already"},
		{"add neighbour", syscall.EEXIST, "it exists already"},
		{"delete route", syscall.ESRCH, "there is no such entry"},
		{"delete neighbour", syscall.ENOENT, "there is no such entry"},
		{"add route", syscall.ENETUNREACH, "no interface that is up has a network with the gateway in it"},
		{"add route", syscall.EHOSTUNREACH, "no interface that is up has a network with the gateway in it"},
		{"delete address", syscall.EADDRNOTAVAIL, "the interface does not have it"},
		{"set hardware address of", syscall.EADDRNOTAVAIL, "a hardware address must not be zero or a group's"},
		{"add", syscall.EADDRNOTAVAIL, "a hardware address must not be zero or a group's"},
		{"add address", syscall.EADDRNOTAVAIL, ""},
		{"add", syscall.EINVAL, "a parameter of the kind is missing, such as the Parent of a vlan, or wrong, such as a Master that does not exist"},
		{"set master 9 of", syscall.EINVAL, "there is no interface with the index of the master"},
		{"set MTU 9 of", syscall.EINVAL, "the interface does not take this MTU"},
		{"set down", syscall.EINVAL, "no interface has index 0"},
		{"delete", syscall.EINVAL, "no interface has index 0"},
		{"delete", syscall.EOPNOTSUPP, "the kernel keeps this interface"},
		{"set master 9 of", syscall.EOPNOTSUPP, "the master is not a bridge, or the interface cannot be a port"},
		{"add", syscall.EOPNOTSUPP, "the kernel does not have this kind; modprobe may load it"},
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
}

// TestErrorText looks at errors of which all words are known.
func TestErrorText(t *testing.T) {
	c, _ := dialFake(t, nil)
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fail("delete", ifIndex(3), &Error{Err: syscall.EINVAL, Msg: "the kernel's own"}), "rtnl: delete interface 3: invalid argument (the kernel's own)"},
		{&Error{Op: "dial", Err: net.ErrClosed}, "rtnl: dial: use of closed network connection"},
		{c.LinkSetName(3, "a/b"), `rtnl: set name "a/b" of interface 3: invalid argument ("a/b" cannot be an interface name)`},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
