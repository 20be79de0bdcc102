//go:build amd64 || arm64

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/packet"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

var (
	rounds   = flag.Int("rounds", 5, "how often everything is measured")
	each     = flag.Duration("each", time.Second, "how long each measurement takes")
	members  = flag.Int("members", 8, "stacks on the flooded network")
	clients  = flag.Int("clients", 16, "plugs of another process that receive on it")
	flooders = flag.Int("flooders", 4, "plugs or stacks that flood at once")
	size     = flag.Int("size", 1514, "bytes of a frame of the flood")
	networks = flag.String("networks", "switch mem plugs", "networks that are measured: of stacks, and plugs of mem://")
	floods   = flag.String("floods", "client stack", "what floods: clients in another process, or stacks of this one")
)

func main() {
	flag.Parse()
	switch flag.Arg(0) {
	case "flood":
		flood(flag.Arg(1))
		return
	case "listen":
		listen(flag.Arg(1))
		return
	case "burn":
		part, _ := strconv.ParseFloat(flag.Arg(1), 64)
		burn(part, int(math.Ceil(part-.01)))
		fmt.Println("ready")
		select {}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "fairness:", err)
		os.Exit(1)
	}
}

// broadcast is a frame for everybody, of an experimental protocol.
func broadcast() []byte {
	frame := make([]byte, max(*size, vdeplug.HeaderLen))
	copy(frame, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\xfe\x88\xb5")
	return frame
}

// flood sends as fast as it can, until it is killed or the switch is gone.
func flood(vnl string) {
	packets := make([]packet.Packet, 64)
	for i := range packets {
		packets[i].Data = broadcast()
	}
	withPlugs(vnl, *flooders, func(c packet.Transport) {
		for c.SendPackets(packets, true) == nil {
		}
	})
}

// listen receives the flood with many plugs.
func listen(vnl string) {
	withPlugs(vnl, *clients, func(c packet.Transport) {
		var b packet.Buffer
		for {
			if _, err := c.RecvPackets(&b); err != nil {
				return
			}
		}
	})
}

// withPlugs opens plugs, says "ready", and calls f for each until all calls return.
func withPlugs(vnl string, n int, f func(packet.Transport)) {
	var all sync.WaitGroup
	for range n {
		c, err := vdeplug.Open(vnl, nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, "fairness:", err)
			os.Exit(1)
		}
		all.Go(func() { f(c.(packet.Transport)) })
	}
	fmt.Println("ready")
	all.Wait()
}

// figures are the measured values of a network: bytes in a second, and round trips.
type figures struct {
	rate     float64
	p50, p99 time.Duration
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("/tmp", "fairness")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	flooded := "switch://" + dir + "/flood"
	var stacks []*vdestack.Stack
	for i := range *members {
		s, err := vdestack.Open(flooded, fmt.Sprintf("10.1.0.%d/24", i+1))
		if err != nil {
			return err
		}
		defer s.Close()
		stacks = append(stacks, s)
	}
	defer start("listen", "vde://"+dir+"/flood")()
	flood := map[string]func() (stop func()){
		"client": func() func() { return start("flood", "vde://"+dir+"/flood") },
		"stack":  func() func() { return startStacks(stacks[:min(*flooders, len(stacks))]) },
	}
	all := make(map[string][]figures)
	for round := range *rounds {
		for _, network := range strings.Fields(*networks) {
			v, err := openVictim(network, dir)
			if err != nil {
				return err
			}
			note := func(what string) error {
				f, err := v.measure()
				if err == nil {
					all[network+" "+what] = append(all[network+" "+what], f)
				}
				return err
			}
			err = note("alone")
			for _, kind := range strings.Fields(*floods) {
				if err != nil || ctx.Err() != nil {
					break
				}
				stop := flood[kind]()
				used := processors(func() { time.Sleep(*each) })
				err = errors.Join(err, note(kind+" floods"))
				stop()
				if kind == "client" {
					stop = start("burn", fmt.Sprint(used))
				} else {
					stop = burn(float64(*flooders), *flooders) // a sender never waits
				}
				err = errors.Join(err, note(kind+" burns"))
				stop()
				all[kind] = append(all[kind], figures{rate: used})
			}
			v.close()
			if err = errors.Join(err, ctx.Err()); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, *rounds)
	}
	for _, kind := range strings.Fields(*floods) {
		fmt.Printf("a flood by a %s takes %.2f processors alone\n", kind, median(all[kind]).rate)
	}
	fmt.Printf("%-8s %-8s %22s %22s %22s %8s\n", "network", "flood", "alone", "during the flood", "during burning", "left")
	for _, network := range strings.Fields(*networks) {
		for _, kind := range strings.Fields(*floods) {
			flooded, burned := all[network+" "+kind+" floods"], all[network+" "+kind+" burns"]
			var parts []float64 // of each round
			for i, f := range flooded {
				parts = append(parts, f.rate/burned[i].rate)
			}
			slices.Sort(parts)
			fmt.Printf("%-8s %-8s %v %v %v %7.0f%%\n", network, kind, median(all[network+" alone"]), median(flooded), median(burned), 100*parts[len(parts)/2])
		}
	}
	return nil
}

func (f figures) String() string {
	return fmt.Sprintf("%5.2f Gbit/s %s/%s", f.rate*8/1e9, short(f.p50), short(f.p99))
}

func short(d time.Duration) string { return fmt.Sprintf("%5.0fus", float64(d)/1e3) }

// median returns the medians of each figure.
func median(list []figures) (m figures) {
	list = slices.Clone(list)
	middle := func(compare func(a, b figures) int) figures {
		slices.SortFunc(list, compare)
		return list[len(list)/2]
	}
	m.rate = middle(func(a, b figures) int { return cmp.Compare(a.rate, b.rate) }).rate
	m.p50 = middle(func(a, b figures) int { return cmp.Compare(a.p50, b.p50) }).p50
	m.p99 = middle(func(a, b figures) int { return cmp.Compare(a.p99, b.p99) }).p99
	return m
}

// others are the processes that this one has started.
var others = make(map[int]bool)

// start starts the program again, to do something else, and waits until it is ready.
func start(what, vnl string) (stop func()) {
	cmd := exec.Command("/proc/self/exe", append(os.Args[1:len(os.Args):len(os.Args)], what, vnl)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = stdout.Read(make([]byte, 1))
	}
	if err != nil {
		panic(err)
	}
	others[cmd.Process.Pid] = true
	return func() {
		delete(others, cmd.Process.Pid)
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// startStacks floods with sockets of stacks.
func startStacks(stacks []*vdestack.Stack) (stop func()) {
	var done sync.WaitGroup
	var conns []net.Conn
	for _, s := range stacks {
		c, err := s.Dial("udp", "10.1.0.255:9")
		if err != nil {
			panic(err)
		}
		conns = append(conns, c)
		done.Go(func() {
			data := make([]byte, max(*size-42, 0))
			for {
				if _, err := c.Write(data); errors.Is(err, net.ErrClosed) {
					return
				}
			}
		})
	}
	return func() {
		for _, c := range conns {
			c.Close()
		}
		done.Wait()
	}
}

// cpuTime is the processor time of this process and the others.
func cpuTime() time.Duration {
	clocks := []int32{unix.CLOCK_PROCESS_CPUTIME_ID}
	for pid := range others {
		clocks = append(clocks, int32(^pid<<3|2)) // as clock_getcpuclockid(3) has it
	}
	var sum int64
	for _, clock := range clocks {
		var ts unix.Timespec
		if unix.ClockGettime(clock, &ts) == nil {
			sum += ts.Nano()
		}
	}
	return time.Duration(sum)
}

// processors returns how many processors this process and the others use during f.
func processors(f func()) float64 {
	start, before := time.Now(), cpuTime()
	f()
	return float64(cpuTime()-before) / float64(time.Since(start))
}

// burn keeps a number of processors busy, with n goroutines.
func burn(processors float64, n int) (stop func()) {
	const period = 2 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	part := min(processors/float64(n), 1)
	for range n {
		done.Go(func() {
			for ctx.Err() == nil {
				begin := time.Now()
				for time.Since(begin) < time.Duration(part*float64(period)) {
				}
				if part < .98 {
					time.Sleep(period - time.Since(begin))
				}
			}
		})
	}
	return func() {
		cancel()
		done.Wait()
	}
}

// A victim is a network that is measured.
type victim struct {
	measure func() (figures, error)
	close   func()
}

func openVictim(network, dir string) (*victim, error) {
	switch network {
	case "plugs":
		return openPlugs()
	case "switch":
		network = "switch://" + dir + "/victim"
	default:
		network = "mem://victim"
	}
	a, err := vdestack.Open(network, "10.2.0.1/24")
	if err != nil {
		return nil, err
	}
	b, err := vdestack.Open(network, "10.2.0.2/24")
	if err != nil {
		a.Close()
		return nil, err
	}
	return &victim{
		measure: func() (f figures, err error) {
			if f.rate, err = throughput(a, b); err == nil {
				f.p50, f.p99, err = roundTrips(a, b)
			}
			return f, err
		},
		close: func() { a.Close(); b.Close() },
	}, nil
}

// connect returns both ends of a connection.
func connect(a, b *vdestack.Stack) (server, client net.Conn, err error) {
	ln, err := a.Listen("tcp", "10.2.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	if client, err = b.Dial("tcp", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	if server, err = ln.Accept(); err != nil {
		client.Close()
	}
	return server, client, err
}

func throughput(a, b *vdestack.Stack) (float64, error) {
	s, c, err := connect(a, b)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	go func() {
		defer c.Close()
		buf := make([]byte, 128<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	start := time.Now()
	s.SetReadDeadline(start.Add(*each))
	n, err := io.Copy(struct{ io.Writer }{io.Discard}, s)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

func roundTrips(a, b *vdestack.Stack) (p50, p99 time.Duration, err error) {
	s, c, err := connect(a, b)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	go func() {
		defer s.Close()
		io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s})
	}()
	return times(func() error {
		var b [1]byte
		if _, err := c.Write(b[:]); err != nil {
			return err
		}
		_, err := io.ReadFull(c, b[:])
		return err
	})
}

// times measures how long f takes.
func times(f func() error) (p50, p99 time.Duration, err error) {
	var all []time.Duration
	for start := time.Now(); time.Since(start) < *each/2; {
		begin := time.Now()
		if err := f(); err != nil {
			return 0, 0, err
		}
		all = append(all, time.Since(begin))
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)*99/100], nil
}

// openPlugs measures two plugs of mem:// with a window of packets on the way.
func openPlugs() (*victim, error) {
	const window = 16
	a, err := vdeplug.Open("mem://plugs", nil)
	if err != nil {
		return nil, err
	}
	b, err := vdeplug.Open("mem://plugs", nil)
	if err != nil {
		a.Close()
		return nil, err
	}
	arrived := make(chan int, 1<<16)
	var done sync.WaitGroup
	done.Go(func() {
		var buf packet.Buffer
		defer buf.Release()
		for {
			packets, err := b.(packet.Transport).RecvPackets(&buf)
			if err != nil {
				return
			}
			arrived <- len(packets)
		}
	})
	packets := []packet.Packet{{Data: broadcast()}}
	send := func(n int) error {
		for range n {
			if err := a.(packet.Transport).SendPackets(packets, true); err != nil {
				return err
			}
		}
		return nil
	}
	return &victim{
		measure: func() (f figures, err error) {
			start, bytes, way := time.Now(), 0, 0
			for time.Since(start) < *each {
				if err := send(window - way); err != nil {
					return f, err
				}
				n := <-arrived
				way = window - n
				bytes += n * len(packets[0].Data)
			}
			f.rate = float64(bytes) / time.Since(start).Seconds()
			for ; way > 0; way -= <-arrived {
			}
			f.p50, f.p99, err = times(func() error {
				err := send(1)
				<-arrived
				return err
			})
			return f, err
		},
		close: func() {
			a.Close()
			b.Close()
			done.Wait()
		},
	}, nil
}
