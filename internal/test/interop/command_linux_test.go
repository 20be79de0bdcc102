package interop

import (
	"bufio"
	"strings"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestCommands runs the usual programs in a stack, which must work for an
// ordinary user too.
func TestCommands(t *testing.T) {
	noProcesses(t)
	vnl := "mem://" + t.Name()
	here := open(t, vnl, client)
	open(t, vnl, server)
	ip, ping := testenv.Need(t, "ip", "iproute2"), testenv.Need(t, "ping", "iputils-ping")
	busybox, tcpdump := testenv.Need(t, "busybox", "busybox"), testenv.Need(t, "tcpdump", "tcpdump")
	run := func(args ...string) string {
		t.Helper()
		out, err := here.Command(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
		return string(out)
	}
	for _, tt := range []struct{ command, want string }{
		{ip + " -br addr show dev vde0", client[0] + "/24 " + client[1] + "/64 "},
		{ip + " route add 10.9.0.0/16 via 10.0.0.9 dev vde0", ""},
		{busybox + " ip route show", "10.9.0.0/16 via 10.0.0.9 dev vde0"},
		{busybox + " ip link set dev vde0 mtu 1400", ""},
		{busybox + " ip link show dev vde0", "mtu 1400"},
		{ip + " neigh replace 10.0.0.9 lladdr 02:00:00:00:00:09 dev vde0", ""},
		{ip + " neigh show 10.0.0.9", "lladdr 02:00:00:00:00:09 PERMANENT"},
		{ping + " -n -c 1 -w 20 " + server[0], " bytes from "},
		{ping + " -n -c 1 -w 20 " + server[1], " bytes from "},
	} {
		if got := run(strings.Fields(tt.command)...); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.command, got, tt.want)
		}
	}

	// tcpdump sees what ping sends.
	dump := here.Command(t.Context(), tcpdump, "-n", "-l", "-i", "vde0", "-c", "2", "icmp")
	stdout := testenv.Must(dump.StdoutPipe())(t)
	stderr := testenv.Must(dump.StderrPipe())(t)
	testenv.Check(t, dump.Start())
	guard := time.AfterFunc(testenv.Timeout, func() { dump.Process.Kill() })
	defer guard.Stop()
	told := bufio.NewScanner(stderr)
	for told.Scan() && !strings.HasPrefix(told.Text(), "listening on vde0") {
	}
	run(ping, "-n", "-c", "1", "-w", "20", server[0])
	var seen strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		seen.WriteString(lines.Text() + "\n")
	}
	for told.Scan() { // until its end, as Wait closes the pipe
	}
	if err := dump.Wait(); err != nil {
		t.Errorf("tcpdump: %v", err)
	}
	for _, want := range []string{
		client[0] + " > " + server[0] + ": ICMP echo request",
		server[0] + " > " + client[0] + ": ICMP echo reply",
	} {
		if !strings.Contains(seen.String(), want) {
			t.Errorf("tcpdump saw %q, want %q", seen.String(), want)
		}
	}
}
