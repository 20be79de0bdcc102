package vdestack

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

func TestRun(t *testing.T) {
	s := open(t, "mem://"+t.Name())
	file := filepath.Join(t.TempDir(), "x")
	testenv.Check(t, s.Run(t.Context(), "ip link set vde0 mtu 1300; touch '"+file+"'; true"))
	testenv.Must(os.Stat(file))(t)
	err := s.Run(t.Context(), "true; sh -c 'exit 4'; rm '"+file+"'")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 4 || !strings.Contains(err.Error(), "exit 4") {
		t.Errorf("got %v, want exit status 4", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a command after a failed one ran: %v", err)
	}
	if err := s.Run(t.Context(), ""); err != nil {
		t.Errorf("no command: %v", err)
	}
	if err := s.Run(t.Context(), "echo 'unterminated"); err == nil {
		t.Error("an unterminated quote is accepted")
	}
}
