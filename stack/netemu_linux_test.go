package stack_test

import (
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
	"github.com/vdestack/vdestack/vdeplug"
)

// impaired opens two stacks on one network, the first of which is impaired.
func impaired(t *testing.T, options string) (a, b *Stack) {
	vnl := "mem://" + t.Name()
	return open(t, "netemu://"+options+"{"+vnl+"}", "10.0.0.1/24", "fc00::1/64"), open(t, vnl, "10.0.0.2/24", "fc00::2/64")
}

// TestNetemuTransfer moves data over networks that TCP has to work for, and which change
// meanwhile.
func TestNetemuTransfer(t *testing.T) {
	testenv.Long(t)
	for _, options := range []string{
		"delay=2ms/jitter=1ms", "loss=1%/seed=1", "duplicate=5%/seed=2", "reorder=5%/seed=3", "corrupt=0.5%/seed=4", "rate=400mbit/queue=128k",
		"loss=0.3%/duplicate=1%/reorder=1%/corrupt=0.1%/delay=1ms/jitter=1ms/rate=1gbit/seed=5",
	} {
		t.Run(options, func(t *testing.T) {
			a, b := impaired(t, options)
			e := testenv.Must(a.Emulator("vde0"))(t)
			transfer(t, a, b, "10.0.0.1:0", transferSize)
			transfer(t, b, a, "[fc00::2]:0", transferSize)
			if out, in := e.Counts(); out.Frames < 5000 || in.Frames < 5000 {
				t.Errorf("counted %+v and %+v, though 8 MiB went each way", out, in)
			}
			changing, stop := e.Emulation(), make(chan struct{})
			var changes sync.WaitGroup
			changes.Go(func() {
				for tick := time.Tick(10 * time.Millisecond); ; {
					select {
					case <-stop:
						return
					case <-tick:
						changing.Out.Delay = 3*time.Millisecond - changing.Out.Delay
						if err := e.SetEmulation(changing); err != nil {
							t.Error(err)
						}
					}
				}
			})
			defer changes.Wait()
			defer close(stop)
			transfer(t, a, b, "[fc00::1]:0", transferSize)
		})
	}
}

// TestNetemuPing has each packet take as long as it is told, each way.
func TestNetemuPing(t *testing.T) {
	testenv.Long(t)
	testenv.Need(t, "ping", "iputils-ping")
	a, b := impaired(t, "delay-out=30ms/delay-in=20ms/jitter=5ms")
	e := testenv.Must(a.Emulator("vde0"))(t)
	took := regexp.MustCompile(`time=([0-9.]+) ms`)
	// With -w it waits for five answers. Without, it would wait for those that are missing
	// only twice as long as the longest has taken, whatever -W says.
	ping := func(least time.Duration) {
		t.Helper()
		for from, to := range map[*Stack]string{a: "10.0.0.2", b: "fc00::1"} {
			out, err := from.Command(t.Context(), "ping", "-c", "5", "-i", "0.01", "-w", "60", to).CombinedOutput()
			times := took.FindAllSubmatch(out, -1)
			if err != nil || len(times) < 5 {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, m := range times {
				ms, _ := strconv.ParseFloat(string(m[1]), 64)
				if got := time.Duration(ms * float64(time.Millisecond)); got < least-100*time.Microsecond { // as it is printed
					t.Errorf("%v, want %v at least\n%s", got, least, out)
				}
			}
		}
	}
	ping(50 * time.Millisecond)
	// In use, it changes.
	testenv.Check(t, e.SetEmulation(vdeplug.Emulation{Out: vdeplug.Impairment{Delay: 100 * time.Millisecond}}))
	ping(100 * time.Millisecond)
	testenv.Check(t, e.SetEmulation(vdeplug.Emulation{Out: vdeplug.Impairment{Loss: 1}}))
	if out, err := a.Command(t.Context(), "ping", "-c", "1", "-W", "0.2", "10.0.0.2").CombinedOutput(); err == nil {
		t.Errorf("a network that loses all has an answer\n%s", out)
	}
	if got, _ := e.Counts(); got.Lost == 0 {
		t.Errorf("%+v", got)
	}
}

func TestEmulator(t *testing.T) {
	s := made(t, Config{Interfaces: []Interface{
		{VNL: "mem://" + t.Name()}, {VNL: "vlan://3{netemu://delay=1ms{mem://" + t.Name() + "}}", Kind: stack.KindVeth}, {},
	}})
	for name, text := range map[string]string{
		"vde0": `stack: interface vde0 is not on a network of netemu:// ("mem://TestEmulator")`,
		"vde2": `stack: interface vde2 is not on a network of netemu:// ("")`,
		"vde3": `stack: there is no interface "vde3"`,
	} {
		if _, err := s.Emulator(name); err == nil || err.Error() != text {
			t.Errorf("%s: %v, want %s", name, err, text)
		}
	}
	e := testenv.Must(s.Emulator("vde1"))(t)
	if got := fmt.Sprint(e.Emulation().In.Delay); got != "1ms" {
		t.Errorf("got %s", got)
	}
}
