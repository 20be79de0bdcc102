//go:build amd64 || arm64

package permissions

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the tables in "+machinesFile)

const machinesFile = "../../../docs/MACHINES.md"

// A profile says which calls of stacks, of those that few programs make, the default
// seccomp profile of a container's runtime lets pass to containers without CAP_SYS_ADMIN.
// All else that stacks call is let pass by each of them.
type profile struct {
	clone, unshare, setns, mount, sethostname bool // clone: with CLONE_NEWUSER and other namespaces
	otherwise                                 unix.Errno
}

// The profiles as published: seccomp/default.json of moby/profiles, containerd's
// contrib/seccomp/seccomp_default.go, seccomp.json of containers-common, and CRI-O's
// changes of that in internal/config/seccomp. The one of containers-common names setns
// twice, to let it pass and then to refuse it: libseccomp takes the first.
var (
	docker     = profile{otherwise: unix.EPERM}
	containerd = profile{otherwise: unix.EPERM}
	podman     = profile{clone: true, unshare: true, setns: true, mount: true, otherwise: unix.ENOSYS}
	crio       = profile{setns: true, mount: true, otherwise: unix.ENOSYS}
	// recipe is docker with the calls that docs/MACHINES.md adds, recipePodman podman with those.
	recipe       = profile{clone: true, unshare: true, setns: true, mount: true, sethostname: true, otherwise: unix.EPERM}
	recipePodman = profile{clone: true, unshare: true, setns: true, mount: true, sethostname: true, otherwise: unix.ENOSYS}
)

const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// filter makes the profile a filter of what it refuses.
func (p profile) filter() func() error {
	rules := []testenv.Rule{{Call: unix.SYS_CLONE3, Err: unix.ENOSYS}}
	for _, r := range []struct {
		allowed bool
		rule    testenv.Rule
	}{
		{p.clone, testenv.Rule{Call: unix.SYS_CLONE, Mask: namespaces}},
		{p.unshare, testenv.Rule{Call: unix.SYS_UNSHARE}},
		{p.setns, testenv.Rule{Call: unix.SYS_SETNS}},
		{p.mount, testenv.Rule{Call: unix.SYS_MOUNT}},
		{p.sethostname, testenv.Rule{Call: unix.SYS_SETHOSTNAME}},
	} {
		if r.rule.Err = p.otherwise; !r.allowed {
			rules = append(rules, r.rule)
		}
	}
	return filter(rules...)
}

// machines are the places in docs/MACHINES.md. The first has nothing in the way.
var machines = []refusal{
	{name: "a machine with nothing in the way", check: true},
	{name: "Docker", check: true, prepare: container, refuse: docker.filter()},
	{name: "Docker, as below", check: true, refuse: recipe.filter()},
	{name: "Podman", check: true, prepare: container, refuse: podman.filter()},
	{name: "Podman, as below", check: true, refuse: recipePodman.filter()},
	{name: "a pod of Kubernetes, containerd", check: true, prepare: container, refuse: containerd.filter()},
	{name: "a pod of Kubernetes, CRI-O", check: true, prepare: container, refuse: crio.filter()},
	{name: "a pod of Kubernetes, as below", check: true, prepare: container, refuse: recipe.filter()},
	{
		name: "Ubuntu 24.04", check: true, prepare: settings("apparmor_restrict_unprivileged_userns", "1"),
		// AppArmor takes the capabilities that these need.
		refuse: profile{clone: true, otherwise: unix.EPERM}.filter(),
	},
	{name: "`kernel.unprivileged_userns_clone=0`", check: true, prepare: settings("unprivileged_userns_clone", "0"), refuse: profile{otherwise: unix.EPERM}.filter()},
	{name: "`user.max_user_namespaces=0`", check: true, keep: []uintptr{unix.CAP_SYS_RESOURCE}, refuse: sysctl("max_user_namespaces", "0")},
	{name: "systemd, `RestrictNamespaces=yes`", check: true, refuse: profile{mount: true, sethostname: true, otherwise: unix.EPERM}.filter()},
	{name: "systemd, `RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6`", check: true, refuse: filter(family(unix.AF_NETLINK), family(unix.AF_PACKET))},
	{name: "systemd, `PrivateDevices=yes`", check: true, prepare: noTUNDevice},
	{name: "systemd, `ProtectKernelTunables=yes`", check: true, prepare: readOnlySettings},
	{name: "systemd, `SystemCallFilter=@system-service` and `SystemCallErrorNumber=EPERM`", check: true, refuse: profile{clone: true, unshare: true, setns: true, otherwise: unix.EPERM}.filter()},
	{name: "a unit of systemd, as below", check: true, refuse: hardened},
}

// Machines that docs/MACHINES.md does not have.
var (
	bare = refusal{
		name: "a kernel without nftables and MPTCP", check: true,
		refuse: filter(missing(unix.NETLINK_NETFILTER), missing(unix.IPPROTO_MPTCP)),
	}
	full   = refusal{name: "no descriptors", check: true, refuse: fewDescriptors}
	noUser = refusal{ // but for the helper
		name: "no more user namespaces", check: true, keep: []uintptr{unix.CAP_SYS_RESOURCE},
		refuse: sysctl("max_user_namespaces", "1"),
	}
	noNet = refusal{
		name: "no more network namespaces", check: true, keep: []uintptr{unix.CAP_SYS_RESOURCE},
		refuse: func() error { return errors.Join(sysctl("max_net_namespaces", "3")(), holdStacks(2)) },
	}
	switchedOff = refusal{
		name: "no user namespaces", check: true, keep: []uintptr{unix.CAP_SYS_RESOURCE},
		refuse: sysctl("max_user_namespaces", "0"),
	}
)

func missing(protocol uint32) testenv.Rule {
	return testenv.Rule{Call: unix.SYS_SOCKET, Arg: 2, Mask: protocol, Equal: true, Err: unix.EPROTONOSUPPORT}
}

// TestCheckLimits tells a limit that is reached from what the kernel does not have.
func TestCheckLimits(t *testing.T) {
	const noStack, limit, usedUp = "there is no stack", "the limit of descriptors is ", "no more namespaces for this user (user.max_user_namespaces="
	const off = "namespaces are switched off by user.max_user_namespaces=0"
	for _, tt := range []struct {
		machine refusal
		want    map[string]string // how reasons begin; "" means that it works
	}{
		{bare, map[string]string{"stack": "", "nftables": "the kernel has no netlink family 12", "MPTCP": "the kernel has no MPTCP", "limits": ""}},
		{full, map[string]string{"stack": limit, "nftables": noStack, "MPTCP": noStack, "limits": limit}},
		{noUser, map[string]string{"stack": "", "user namespaces": usedUp + "1,", "MPTCP": "", "limits": usedUp + "1,"}},
		{noNet, map[string]string{"stack": usedUp, "user namespaces": usedUp, "MPTCP": noStack, "limits": usedUp}},
		{switchedOff, map[string]string{"stack": off, "user namespaces": off, "limits": off}},
	} {
		t.Run(tt.machine.name, func(t *testing.T) {
			var report []line
			testenv.Check(t, json.Unmarshal([]byte(tt.machine.run(t)), &report))
			for _, f := range report {
				if want, ok := tt.want[f.Name]; ok && (f.Works != (want == "") || !strings.HasPrefix(f.Reason, want)) {
					t.Errorf("%s: works: %v, %s", f.Name, f.Works, f.Reason)
				}
			}
		})
	}
}

func family(domain uint32) testenv.Rule {
	return testenv.Rule{Call: unix.SYS_SOCKET, Mask: domain, Equal: true, Err: unix.EAFNOSUPPORT}
}

// hardened is the unit of systemd in docs/MACHINES.md, with RestrictNamespaces=user net mnt uts.
func hardened() error {
	const others = namespaces &^ (unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS)
	return testenv.Refuse(
		testenv.Rule{Call: unix.SYS_CLONE3, Err: unix.ENOSYS},
		testenv.Rule{Call: unix.SYS_CLONE, Mask: others, Err: unix.EPERM},
		testenv.Rule{Call: unix.SYS_UNSHARE, Mask: others, Err: unix.EPERM},
		testenv.Rule{Call: unix.SYS_SETNS, Arg: 1, Mask: others, Err: unix.EPERM},
		testenv.Rule{Call: unix.SYS_SETNS, Arg: 1, Mask: 0, Equal: true, Err: unix.EPERM},
		family(unix.AF_VSOCK), family(unix.AF_ALG), family(unix.AF_KEY))
}

// container prepares what containers have instead of the machine's.
func container() error { return errors.Join(noTUNDevice(), readOnlySettings()) }

func noTUNDevice() error      { return mount("none", "/dev/net", "tmpfs", 0) }
func readOnlySettings() error { return bind("/proc/sys", "/proc/sys", unix.MS_RDONLY) }

// settings plays a setting of kernels that others do not have, and hides the seccomp filter
// and the capabilities of now, which are dropped.
func settings(name, value string) func() error {
	return func() error {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		status = regexp.MustCompile(`(?m)^(CapEff:\s+)\w+`).ReplaceAll(status, []byte("${1}0"))
		if err := mount("none", "/proc/sys/kernel", "tmpfs", 0); err != nil {
			return err
		}
		for file, text := range map[string]string{"ostype": "Linux\n", name: value + "\n", "status": string(status)} {
			if err := os.WriteFile("/proc/sys/kernel/"+file, []byte(text), 0o644); err != nil {
				return err
			}
		}
		return bind("/proc/sys/kernel/status", "/proc/self/status", 0)
	}
}

// tell prints what works, and checks that nothing is left of the look.
func tell() error {
	testenv.Closing(vdestack.Open("")) // the helper task stays, if there can be one
	netnstest.Settle()
	before := taken()
	r, err := vdestack.Check(context.Background())
	if err != nil {
		return err
	}
	netnstest.Settle()
	if err := before.wait(false); err != nil {
		return err
	}
	if (r.Err() == nil) != r.Features[0].Works {
		return fmt.Errorf("a stack works: %v, Err: %v", r.Features[0].Works, r.Err())
	}
	return json.NewEncoder(os.Stdout).Encode(r.Features)
}

// columns are those of the table: features, or several that are refused together.
var columns = [][]string{{"stack"}, {"user namespaces"}, {"TUN"}, {"veth", "bridge"}, {"settings"}, {"mounts"}, {"host names"}, {"nftables", "vxlan", "WireGuard", "MPTCP"}}

// A line is a [vdestack.Feature], as it is printed.
type line struct {
	Name           string
	Works          bool
	Reason, Remedy string
}

// TestMachines looks at what works in each place, and compares the tables in
// docs/MACHINES.md with that.
func TestMachines(t *testing.T) {
	testenv.Long(t)
	reports := make([][]line, len(machines))
	t.Run("each", func(t *testing.T) {
		for i, m := range machines {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				if err := json.Unmarshal([]byte(m.run(t)), &reports[i]); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	if _, err := os.Stat(machinesFile); err != nil {
		testenv.Skip(t, "no tables to compare with: %v", err)
	}
	// What this kernel does not have at all says nothing about the places.
	has := func(name string) bool {
		return slices.ContainsFunc(reports[0], func(f line) bool { return f.Name == name && f.Works })
	}
	if !has("TUN") {
		testenv.Skip(t, "an ordinary user has no TAPs here (modprobe tun, chmod 0666 /dev/net/tun)")
	}
	var works, reasons strings.Builder
	for i, m := range machines {
		fmt.Fprintf(&works, "| %s |", m.name)
		for _, column := range columns {
			ok := !slices.ContainsFunc(reports[i], func(f line) bool {
				return slices.Contains(column, f.Name) && has(f.Name) && !f.Works
			})
			fmt.Fprintf(&works, " %s |", map[bool]string{true: "yes", false: "no"}[ok])
		}
		works.WriteString("\n")
		name, seen := m.name, map[string]bool{"there is no stack": true}
		for _, f := range reports[i] {
			if f.Works || !has(f.Name) || seen[f.Reason] {
				continue
			}
			seen[f.Reason] = true
			fmt.Fprintf(&reasons, "| %s | %s | %s | %s |\n", name, f.Name, f.Reason, strings.ReplaceAll(f.Remedy, "|", `\|`))
			name = ""
		}
	}
	text := regexp.MustCompile(`"/[^"]*" flags=`).ReplaceAllString(reasons.String(), `"/usr/bin/vdens" flags=`) // not the test
	testenv.CheckGenerated(t, machinesFile, `vdens --check\n((?:    [^\n]*\n)+)`, sample(reports), *update)
	testenv.CheckGenerated(t, machinesFile, `\| where \| stack \|[^\n]*\n\|[-|:]*\n((?:\|[^\n]*\n)*)`, works.String(), *update)
	testenv.CheckGenerated(t, machinesFile, `\| where \| what \|[^\n]*\n\|[-|:]*\n((?:\|[^\n]*\n)*)`, text, *update)
}

// sample is what vdens --check prints in Docker, without the numbers of this machine.
func sample(reports [][]line) string {
	var r vdestack.Report
	for _, f := range reports[slices.IndexFunc(machines, func(m refusal) bool { return m.name == "Docker" })] {
		if f.Name == "limits" {
			f.Reason = "…"
		}
		r.Features = append(r.Features, vdestack.Feature{Name: f.Name, Works: f.Works, Reason: f.Reason, Remedy: f.Remedy})
	}
	return regexp.MustCompile("(?m)^").ReplaceAllString(strings.TrimSuffix(r.String(), "\n"), "    ") + "\n"
}
