//go:build amd64 || arm64

package isolation

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/internal/testenv/private"
	"golang.org/x/sys/unix"
)

// stage says where the tests run: on the machine, on the artificial host, or on one
// without IPv6.
const stage = "ISOLATION_STAGE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(stage) {
	case "":
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		os.Exit(onHost(cmd, "host"))
	case "host":
		err = setUp()
	case "no IPv6":
		err = withoutIPv6()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolation:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// onHost runs the tests as root of new namespaces, and returns their exit status.
func onHost(cmd *exec.Cmd, kind string) int {
	cmd.Env = append(os.Environ(), stage+"="+kind)
	cmd.SysProcAttr = private.Root(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS)
	status, err := private.Run(context.Background(), cmd)
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolation:", err)
	}
	return status
}

// files are the host's configuration of names, all of which is wrong for the stacks.
var files = map[string]string{
	"hosts": "10.66.66.66 server www www.stack.example localhost localhost.stack.example\n" +
		"10.0.0.1 hostonly hostonly.stack.example\n",
	"resolv.conf":   "nameserver 10.0.0.1\nnameserver fc00::1:1\nsearch host.example\noptions ndots:9 timeout:30 attempts:1\n",
	"nsswitch.conf": "hosts: files dns\n",
}

// network is the host's: an interface with the name of the stacks', and their
// addresses on it.
const network = `link set lo up multicast on
link add vde0 type veth peer name far0
link set far0 up
link set vde0 up
addr add 10.0.0.1/24 dev vde0
addr add 10.0.0.2/24 dev vde0
addr add fc00::1:1/64 dev vde0 nodad
addr add fc00::1:2/64 dev vde0 nodad
addr add fe80::a/64 dev vde0 nodad
addr add fe80::b/64 dev vde0 nodad
route add default via 10.0.0.254
route add default via fc00::ff dev vde0
`

// setUp sets the host up.
func setUp() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount /: %w", err)
	}
	dir, err := os.MkdirTemp("", "isolation")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, text := range files {
		from := filepath.Join(dir, name)
		if err := os.WriteFile(from, []byte(text), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(from, "/etc/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount /etc/%s: %w", name, err)
		}
	}
	for name, value := range map[string]string{
		// The host itself sends nothing.
		"net/ipv6/conf/default/router_solicitations": "0",
		"net/ipv6/conf/default/addr_gen_mode":        "1",
	} {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return err
		}
	}
	if err := private.IP(network); err != nil {
		return err
	}
	if err := private.AwaitIPv6(testenv.Timeout, "fc00::1:1", "fc00::1:2", "fe80::a", "fe80::b"); err != nil {
		return err
	}
	// The search list of a host without one.
	if err := unix.Sethostname([]byte("machine.named.example")); err != nil {
		return err
	}
	os.Setenv("HTTP_PROXY", "http://10.0.0.2:3128")
	os.Setenv("LOCALDOMAIN", "host.example")
	os.Setenv("RES_OPTIONS", "ndots:9")
	return nil
}

// withoutIPv6 sets a host up that has IPv6 switched off, as many have.
func withoutIPv6() error {
	for _, name := range []string{"all", "default", "lo"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil {
			return err
		}
	}
	return private.IP("link set lo up\n")
}
