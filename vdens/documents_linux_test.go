package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// console is a block of a document: lines that are typed, and what they write.
var console = regexp.MustCompile("(?s)\n```console\n(.*?)```")

// TestDocuments types the lines of the tutorial and the recipes, section by section. A line
// "$ command" begins in a terminal of its own, when the one before it in the block has
// ended, as does one with nothing but "$", and "$# command" is for the shell of the vdens
// that began last. The lines below are parts of what it writes, in this order, and
// "…" stands for any text. At the end of a section ^C ends what still runs, and the shells
// exit, all with success.
func TestDocuments(t *testing.T) {
	testenv.Long(t)
	needInterfaces(t)
	for _, need := range [][2]string{{"ip", "iproute2"}, {"ping", "iputils-ping"}, {"nc", "netcat-openbsd"}, {"curl", "curl"}, {"vde_plug", "vdeplug"}} {
		testenv.Need(t, need[0], need[1])
	}
	bin := t.TempDir()
	for _, name := range []string{"echo_example", "http_example"} {
		testenv.Check(t, os.Symlink(testenv.Build(t, "..", name), filepath.Join(bin, name)))
	}
	script := fmt.Sprintf("#!/bin/sh\nexec env %s %s \"$@\"\n", asVdens, testenv.Must(os.Executable())(t))
	testenv.Check(t, os.WriteFile(filepath.Join(bin, "vdens"), []byte(script), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("SHELL", "/bin/sh")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	for _, doc := range []string{"TUTORIAL.md", "RECIPES.md"} {
		text := string(testenv.Must(os.ReadFile("../docs/" + doc))(t))
		for i, section := range strings.Split(text, "\n## ") {
			blocks := console.FindAllStringSubmatch(section, -1)
			if i == 0 || blocks == nil {
				continue
			}
			title, _, _ := strings.Cut(section, "\n")
			t.Run(doc+"/"+title, func(t *testing.T) {
				var s session
				t.Chdir(testenv.ShortDir(t))
				defer s.end(t)
				for _, b := range blocks {
					s.block(t, b[1])
				}
			})
		}
	}
}

// A session has the terminals of a section.
type session struct {
	terminals []*terminal
	shell     *terminal // the last one with vdens
}

// A terminal is a command and what it writes.
type terminal struct {
	line  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	said  bytes.Buffer // of out, so far
}

func (s *session) block(t *testing.T, text string) {
	t.Helper()
	var current *terminal
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if typed, ok := strings.CutPrefix(line, "$# "); ok {
			current = s.shell
			if current == nil {
				t.Fatalf("%s: there is no shell of vdens", line)
			}
			fmt.Fprintf(current.stdin, "%s || echo failed: $?\n", typed)
		} else if typed, ok := strings.CutPrefix(line+" ", "$ "); ok {
			if current != nil {
				current.wait(t)
			}
			if typed == "" {
				continue
			}
			typed = strings.TrimSuffix(typed, " ")
			current = s.open(t, strings.Replace(typed, "go run ./", "", 1))
			if strings.HasPrefix(typed, "vdens ") && !strings.HasPrefix(typed, "vdens plug ") {
				s.shell = current
			}
		} else if current == nil {
			t.Fatalf("%q is what no command has written", line)
		} else {
			current.expect(t, line)
		}
	}
}

func (s *session) open(t *testing.T, line string) *terminal {
	t.Helper()
	p := &terminal{line: line, cmd: command(t, "/bin/sh", "-c", "exec "+line)}
	p.cmd.Env = os.Environ()
	p.stdin = testenv.Must(p.cmd.StdinPipe())(t)
	r, w, err := os.Pipe()
	testenv.Check(t, err)
	p.cmd.Stdout, p.cmd.Stderr = w, w
	p.out = bufio.NewReader(r)
	testenv.Check(t, p.cmd.Start())
	w.Close()
	s.terminals = append(s.terminals, p)
	return p
}

// expect waits for a line.
func (p *terminal) expect(t *testing.T, want string) {
	t.Helper()
	pattern := regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*"))
	for {
		got, err := p.out.ReadString('\n')
		p.said.WriteString(got)
		switch {
		case pattern.MatchString(got):
			return
		case err != nil || strings.HasPrefix(got, "failed: "):
			t.Fatalf("%s: it did not write %q (%v) but\n%s", p.line, want, err, &p.said)
		}
	}
}

// wait waits for the end of a command.
func (p *terminal) wait(t *testing.T) {
	t.Helper()
	if p.cmd.ProcessState != nil {
		return
	}
	rest, _ := io.ReadAll(p.out)
	p.said.Write(rest)
	if err := p.cmd.Wait(); err != nil || bytes.Contains(rest, []byte("failed: ")) {
		t.Errorf("%s: %v\n%s", p.line, err, &p.said)
	}
}

// end ends all commands, as ^C and exit do. Of a test that has failed it kills those in the
// background too.
func (s *session) end(t *testing.T) {
	t.Helper()
	for _, p := range slices.Backward(s.terminals) {
		p.stdin.Close() // a shell exits
		if p.cmd.ProcessState == nil && !strings.HasPrefix(p.line, "vdens ") {
			p.cmd.Process.Signal(syscall.SIGINT)
		}
		p.wait(t)
	}
	if t.Failed() {
		exec.Command("/bin/sh", "-c", "kill $(cat *.pid)").Run()
	}
}
