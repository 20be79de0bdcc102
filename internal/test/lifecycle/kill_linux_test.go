//go:build amd64 || arm64

package lifecycle

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

func init() { register(starter) }

// starter starts commands without end. They and the helper hold its output.
func starter() {
	s := must(vdestack.Open("mem://kill", "10.0.0.1/24"))
	fmt.Println("ready")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				ctx, cancel := context.WithCancel(context.Background())
				cmd := s.Command(ctx, "sleep", "1000")
				cmd.Stdout = os.Stdout
				check(cmd.Start())
				cancel()
				cmd.Wait()
			}
		})
	}
	wg.Wait()
}

// TestKill kills programs at random moments while they start commands: nothing of them
// lives on. Every process of a program has its output open.
func TestKill(t *testing.T) {
	testenv.Long(t)
	for range 30 {
		cmd := program(t, "starter")
		r, w, err := os.Pipe()
		testenv.Check(t, err)
		defer r.Close()
		cmd.Stdout = w
		testenv.Check(t, cmd.Start())
		w.Close()
		r.SetReadDeadline(time.Now().Add(20 * time.Second))
		testenv.Must(io.ReadFull(r, make([]byte, len("ready\n"))))(t)
		time.Sleep(rand.N(20 * time.Millisecond)) // the moment, not a wait
		cmd.Process.Kill()
		cmd.Wait()
		r.SetReadDeadline(time.Now().Add(5 * time.Second))
		if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
			t.Fatalf("something of the program lives on: %q, %v", rest, err)
		}
	}
}
