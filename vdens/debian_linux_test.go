package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/sys/unix"
)

// debianLines are lines of scripts for Debian's vdens, with what they write; an exit status
// that is not 0 counts as "failed". Two programs run them: $net is a network with the host
// 10.0.0.1, $me an address on it, $dir a directory for each program.
var debianLines = []struct {
	line, want string
	debian     string // what Debian's writes, if that is another text; see docs/DECISIONS.md
}{
	{line: "vdens no true"},
	{line: "vdens - true"},
	{line: "vdens '' true"},
	{line: "vdens no sh -c 'exit 7'", want: "failed"},
	{line: "vdens no $links", want: "lo"},
	{line: "vdens null:// $links", want: "lo vde0"},
	{line: "vdens -i eth null:// $links", want: "lo eth0"},
	{line: "vdens -ieth null:// $links", want: "lo eth0"},
	{line: "vdens --iface eth null:// $links", want: "lo eth0"},
	{line: "vdens --iface=eth null:// $links", want: "lo eth0"},
	{line: "vdens -usi eth null:// $links", want: "lo eth0"},
	{line: "vdens -- null:// $links", want: "lo vde0"},
	{line: "vdens -m null:// null:// -- $links", want: "lo vde0 vde1"},
	{line: "vdens --multi -i eth null:// null:// -- $links", want: "lo eth0 eth1"},
	{line: "vdens -mi eth $dir/sw null:// $dir/sw -- $links", want: "lo eth0 eth1 eth2"},
	{line: "echo \"$links\" | SHELL=/bin/sh vdens -m null:// null://", want: "lo vde0 vde1"},
	{line: "echo \"$links\" | SHELL=/bin/sh vdens null://", want: "lo vde0"},
	{line: "vdens null:// printf '[%s]' 'a b' '' '*' -- -m --help mem://", want: "[a b][][*][--][-m][--help][mem://]"},
	{line: "vdens null:// echo -- -s", want: "-- -s"},
	{line: "echo hello | vdens null:// cat", want: "hello"},
	{line: "vdens null:// sh -c 'echo out; echo err >&2' 2>&1 >/dev/null", want: "err"},
	{line: "vdens null:// cat 3<$dir/conf /dev/fd/3", want: "nameserver 9.9.9.9"},
	{line: "cd / && FOO=bar vdens null:// sh -c 'pwd; echo $FOO'", want: "/ bar"},
	{line: "umask 027; s='umask; id -u; id -g; ulimit -n'; test \"$(vdens null:// sh -c \"$s\")\" = \"$(sh -c \"$s\")\" && echo same", want: "same"},
	{line: "trap '' HUP; vdens null:// grep SigIgn /proc/self/status", want: "SigIgn: 0000000000000001"},
	{line: "vdens null:// grep Amb /proc/self/status", want: "CapAmb: 0000000000003c00"},
	{line: "vdens -s null:// grep Amb /proc/self/status", want: "CapAmb: 0000000000203c00"},
	{line: "vdens --sysadm null:// sh -c 'mount -t tmpfs none $dir/mnt && : >$dir/mnt/x && ls $dir/mnt'; ls $dir/mnt", want: "x"},
	{line: "vdens -u null:// $links; vdens -c null:// $links", want: "lo vde0 lo vde0"},
	{line: "vdens --unshare --clone null:// $links", want: "lo vde0"},
	{line: "vdens -R 1.1.1.1,fc00::1 null:// $servers", want: "nameserver 1.1.1.1 nameserver fc00::1"},
	{line: "vdens --resolvaddr=1.1.1.1 null:// $servers", want: "nameserver 1.1.1.1"},
	{line: "vdens -r $dir/conf null:// $servers", want: "nameserver 9.9.9.9"},
	{line: "vdens --resolvconf $dir/conf no $servers", want: "nameserver 9.9.9.9"},
	{line: "vdens -r $dir/conf -R 1.1.1.1 null:// $servers", want: "nameserver 1.1.1.1"},
	{line: "VDE_RESOLVADDR=1.1.1.1 VDE_RESOLVCONF=$dir/conf vdens null:// $servers", want: "nameserver 1.1.1.1"},
	{line: "VDE_RESOLVCONF=$dir/conf vdens null:// $servers", want: "nameserver 9.9.9.9"},
	{line: "VDE_RESOLVCONF=$dir/no-such vdens -R 1.1.1.1 null:// $servers", want: "nameserver 1.1.1.1"},
	{line: "vdens -r $dir/no-such null:// true", want: "failed"},
	{line: "vdens $net $up; ping -c 1 -W 10 10.0.0.1 | grep -o \"1 received\"'", want: "1 received"},
	{line: "vdens $dir/vnl $up; ping -c 1 -W 10 10.0.0.1 | grep -o \"1 received\"'", want: "1 received"},
	{line: "vdens \"=vde_plug $net\" $up; ping -c 1 -W 10 10.0.0.1 | grep -o \"1 received\"'", want: "1 received"},
	{line: "vdens no sh -c 'ip link set lo up; ping -c 1 127.0.0.1 | grep -o \"1 received\"'", want: "1 received"},
	{line: "vdens vde://$dir/no-such echo never", want: "failed"},
	{line: "vdens -x null:// echo never", want: "failed"},
	{line: "vdens null:// -x", want: "failed", debian: " "},
	{line: "vdens no no-such-program", want: "failed"},
	{line: "vdens null:// no-such-program", want: "failed", debian: " "},
	{line: "vdens null:// sh -c 'exit 7'", want: "failed", debian: " "},
	{line: "vdens -h >/dev/null", want: "", debian: "failed"},
}

// TestDebian runs each line with Debian's vdens and with ours.
func TestDebian(t *testing.T) {
	testenv.Long(t)
	needInterfaces(t)
	needResolvConf(t)
	for _, need := range [][2]string{{"ip", "iproute2"}, {"ping", "iputils-ping"}, {"vde_plug", "vdeplug"}} {
		testenv.Need(t, need[0], need[1])
	}
	dir := testenv.ShortDir(t)
	net := dir + "/hub"
	testenv.Opened(vdestack.Open("hub://"+net, "10.0.0.1/24"))(t)
	programs := [2]string{"debian", "ours"}
	for i, name := range programs {
		d := filepath.Join(dir, name)
		for _, sub := range []string{"bin", "mnt"} {
			testenv.Check(t, os.MkdirAll(filepath.Join(d, sub), 0o755))
		}
		testenv.Check(t, os.WriteFile(d+"/conf", []byte("nameserver 9.9.9.9\n"), 0o644))
		testenv.Check(t, os.WriteFile(d+"/vnl", []byte("vde://"+net+"\n"), 0o644))
		testenv.Check(t, os.Symlink(net, d+"/sw"))
		program := testenv.Need(t, "vdens", "vdens")
		if i == 1 {
			program = "env " + asVdens + " GORACE=atexit_sleep_ms=0 " + testenv.Must(os.Executable())(t)
		}
		testenv.Check(t, os.WriteFile(d+"/bin/vdens", []byte("#!/bin/sh\nexec "+program+` "$@"`+"\n"), 0o755))
	}
	// They wait for the kernel most of the time.
	turns := make(chan bool, 16)
	var wg sync.WaitGroup
	got := make([][2]string, len(debianLines))
	for n := range debianLines {
		for i, name := range programs {
			turns <- true
			wg.Go(func() {
				defer func() { <-turns }()
				d := filepath.Join(dir, name)
				line := strings.NewReplacer(
					"$dir", d, "$net", "vde://"+net,
					"$links", "ip -o link | sed 's/^[0-9]*: //;s/:.*//'",
					"$servers", "grep ^nameserver /etc/resolv.conf",
					"$up", fmt.Sprintf("sh -c 'ip addr add 10.0.0.%d/24 dev vde0; ip link set vde0 up", 2+2*n+i),
				).Replace(debianLines[n].line)
				cmd := command(t, "/bin/sh", "-c", line)
				cmd.Env = append(os.Environ(), "PATH="+d+"/bin:"+os.Getenv("PATH"), "SHELL=/bin/false")
				got[n][i] = runLine(t, cmd)
			})
		}
	}
	wg.Wait()
	for n, tt := range debianLines {
		want := [2]string{tt.want, tt.want}
		if tt.debian != "" {
			want[0] = strings.TrimSpace(tt.debian)
		}
		if got[n] != want {
			t.Errorf("%s: Debian's and ours write %q, want %q", tt.line, got[n], want)
		}
	}
}

// runLine returns what a line writes. Meanwhile it wakes those vdens of Debian that have not
// noticed the end of their command: SIGCHLD gets lost if it comes early.
func runLine(t *testing.T, cmd *exec.Cmd) string {
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return err.Error()
	}
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	wake := time.NewTicker(200 * time.Millisecond)
	defer wake.Stop()
	for {
		select {
		case <-wake.C:
			wakeDebian(t, cmd.Process.Pid)
		case err := <-ended:
			text := strings.Join(strings.Fields(out.String()), " ")
			if err != nil {
				text = strings.TrimSpace(text + " failed")
			}
			return text
		}
	}
}

// wakeDebian sends SIGCHLD to a process, or its children, whose command is a zombie.
func wakeDebian(t *testing.T, pid int) {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", pid))
	for child := range strings.FieldsSeq(string(children)) {
		status, _ := os.ReadFile("/proc/" + child + "/status")
		if string(name) == "vdens\n" && strings.Contains(string(status), "State:\tZ") {
			t.Log("Debian's vdens missed the end of its command")
			unix.Kill(pid, unix.SIGCHLD)
		}
		n, _ := strconv.Atoi(child)
		wakeDebian(t, n)
	}
}
