package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// completeLines are command lines up to the cursor, with some of what may follow.
var completeLines = []struct{ line, with, without string }{
	{"vdens ", "vde:// plug :files", ":commands -m"},
	{"vdens v", "vde:// vxvde:// vlan://", "mem:// plug"},
	{"vdens -", "-i --iface -m -conf --sysadm -- --completion", "vde:// -d"},
	{"vdens --re", "--resolvconf --resolvaddr", "--iface -reconnect"},
	{"vdens -r ", ":files", "vde://"},
	{"vdens -sw ", ":files", "vde://"},
	{"vdens -H ", "", "vde:// :files"},
	{"vdens -H name -addr 10.0.0.1/24 ", "vde:// :files", ":commands"},
	{"vdens vde:// ", "mem:// :commands", ":files plug"},
	{"vdens -m vde:// ", "mem:// :files", ":commands"},
	{"vdens vde:// mem:// -", "-gw -m --", "mem://"},
	{"vdens -- ", ":commands", "vde://"},
	{"vdens no l", ":commands", "mem://"},
	{"vdens no ls -", ":files", "-m"},
	{"vdens vde:// -- ls ", ":files", "mem://"},
	{"vdens --no-such ", "", "vde:// :files"},
	{"vdens -s=x ", "", "vde:// :files"},
	{"vdens plug ", "vde:// = :files", "plug :commands"},
	{"vdens plug --p", "--pidfile --port --port2", "--help"},
	{"vdens plug -dp ", ":files", "vde://"},
	{"vdens plug vde:// = ", ":commands", "vde://"},
	{"vdens plug vde:// = ssh ", ":files", "vde://"},
}

func TestComplete(t *testing.T) {
	complete(new(bytes.Buffer), nil) // no shell does that
	for _, tt := range completeLines {
		var b bytes.Buffer
		complete(&b, strings.Split(tt.line, " ")[1:])
		var words []string
		for line := range strings.Lines(b.String()) {
			word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			words = append(words, word)
		}
		for want := range strings.FieldsSeq(tt.with) {
			if !slices.Contains(words, want) {
				t.Errorf("%q: %q is not in %q", tt.line, want, words)
			}
		}
		for not := range strings.FieldsSeq(tt.without) {
			if slices.Contains(words, not) {
				t.Errorf("%q: %q is in %q", tt.line, not, words)
			}
		}
	}
	for _, o := range new(options).table() {
		if strings.Contains(o.names, completeOption+" ") {
			t.Errorf("%s is an option of users too", completeOption)
		}
	}
}

// TestCompletionScripts has bash complete lines; the other shells may be missing.
func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		status, stdout, stderr := runVdens(t, "", "--completion", shell)
		if status != 0 || stderr != "" || !strings.Contains(stdout, " "+completeOption+" ") || !strings.Contains(stdout, completeFiles) || !strings.Contains(stdout, completeCommands) {
			t.Errorf("%s: status %d, %q and %q", shell, status, stdout, stderr)
		}
	}
	if status, _, stderr := runVdens(t, "", "--completion", "csh"); status == 0 || !strings.Contains(stderr, "bash, zsh and fish") {
		t.Errorf("csh: status %d, %q", status, stderr)
	}
	dir := t.TempDir()
	testenv.Check(t, os.WriteFile(filepath.Join(dir, "a file"), nil, 0o600))
	testenv.Check(t, os.Mkdir(filepath.Join(dir, "sub;dir"), 0o700))
	testenv.Check(t, os.WriteFile(filepath.Join(dir, "mycommand"), nil, 0o700))
	t.Chdir(dir)
	exe := testenv.Must(os.Executable())(t)
	for line, want := range map[string]string{
		"vdens pl":             "plug\n",
		"vdens vxv":            "vxvde://\n",
		"vdens vx":             "vxlan://\nvxvde://\n",
		"vdens vde:":           "//\n", // behind the colon, for bash
		"vdens --iface=x --ma": "--man\n",
		"vdens -r a":           "a file\n",
		"vdens no -- mycom":    "mycommand\n",
		"vdens s":              "seqpacket://\nslirp://\nswitch://\nsub\\;dir/\n", // which must not hide them
		"vdens --no-such ":     "\n",
	} {
		cmd := command(t, "bash", "--norc", "-c", `eval "$("$0" --completion bash)"
vdens() { "$exe" "$@"; }
COMP_LINE=$1 COMP_POINT=${#1}; _vdens; printf '%s\n' "${COMPREPLY[@]}"`, exe, line)
		cmd.Env = append(cmd.Env, "exe="+exe, "PATH="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%q: got %q, %v, want %q", line, out, err, want)
		}
	}
}

// TestCompletionQuotes types lines at a terminal and completes what names a directory that a
// shell would run. The words of each line come to vdens as they are.
func TestCompletionQuotes(t *testing.T) {
	dir := t.TempDir()
	testenv.Check(t, os.Mkdir(filepath.Join(dir, "$(touch run)"), 0o700))
	master, name := testenv.PTY(t)
	tty := testenv.Opened(os.OpenFile(name, os.O_RDWR, 0))(t)
	cmd := command(t, "bash", "--norc", "--noprofile", "-i")
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	cmd.Env = append(cmd.Env, "exe="+testenv.Must(os.Executable())(t), "INPUTRC=/dev/null", "HISTFILE=/dev/null", "TERM=dumb")
	lines := []string{"vdens no ./\\$\t", "vdens -r \\$\t", "vdens no ls '$\t"}
	testenv.Must(master.WriteString(`vdens() { case $1 in --comp*) "$exe" "$@" ;; *) printf '<%s>' "$@" >>words ;; esac; }` + "\n" +
		`eval "$(vdens --completion bash)"` + "\n" + strings.Join(lines, "\n") + "\nexit\n"))(t)
	testenv.Check(t, cmd.Start())
	shown := make(chan string)
	go func() {
		text, _ := io.ReadAll(master) // until bash has ended
		shown <- string(text)
	}()
	cmd.Wait()
	tty.Close()
	text := <-shown
	got, _ := os.ReadFile(filepath.Join(dir, "words"))
	if want := "<no><./$(touch run)/><-r><$(touch run)/><no><ls><$(touch run)/>"; string(got) != want {
		t.Errorf("got %q, want %q; shown:\n%s", got, want, text)
	}
	if _, err := os.Stat(filepath.Join(dir, "run")); err == nil {
		t.Error("the name of a directory was run")
	}
}
