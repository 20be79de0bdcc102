package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/vdestack/vdestack/stack"
)

const (
	jumboMTU   = 9000
	streamSize = 128 << 10 // bytes a write
	rttSize    = 64        // bytes a round trip
	packetSize = 1200      // bytes a datagram
	window     = 64        // datagrams on their way
)

func (t *trial) traffic() error { return t.streams("stream", stack.DefaultMTU) }

func (t *trial) jumbo() error { return t.streams("jumbo", jumboMTU) }

// streams measures throughput and the processor time it takes, with one and
// with four connections.
func (t *trial) streams(metric string, mtu int) error {
	stream, err := t.pair(mtu)
	if err != nil {
		return err
	}
	for _, n := range []int{1, 4} {
		if err := t.measure(fmt.Sprint(metric, n), func() ([]int64, error) { return stream(n) }); err != nil {
			return err
		}
	}
	return nil
}

// pair makes the stacks, and returns what streams between them.
func (t *trial) pair(mtu int) (stream func(n int) ([]int64, error), err error) {
	limit := t.stream + answerTime
	c := contestantOf(t.contestant)
	if c.sender == "" {
		w, err := t.start(c.name)
		if err != nil {
			return nil, err
		}
		_, err = w.request(t.ctx, answerTime, 0, "pair", mtu, locator(c.name, t.a), locator(c.name, t.b))
		return func(n int) ([]int64, error) {
			return w.request(t.ctx, limit, 4, "stream", n, streamSize, t.stream.Milliseconds())
		}, err
	}
	receiver, sender, err := t.halves(mtu)
	return func(n int) ([]int64, error) {
		sent := make(chan error, 1)
		go func() {
			_, err := sender.request(t.ctx, limit, 0, "send", n, streamSize, t.stream.Milliseconds())
			sent <- err
		}()
		values, err := receiver.request(t.ctx, limit, 4, "receive", n, streamSize, t.stream.Milliseconds())
		return values, errors.Join(err, <-sent)
	}, err
}

// halves makes a stack in each of two workers.
func (t *trial) halves(mtu int) (receiver, sender *process, err error) {
	c := contestantOf(t.contestant)
	if receiver, err = t.start(c.receiver); err != nil {
		return nil, nil, err
	}
	if sender, err = t.start(c.sender); err != nil {
		return nil, nil, err
	}
	if _, err := receiver.request(t.ctx, answerTime, 0, "half", 1, mtu, locator(c.receiver, t.a)); err != nil {
		return nil, nil, err
	}
	_, err = sender.request(t.ctx, answerTime, 0, "half", 2, mtu, locator(c.sender, t.b))
	return receiver, sender, err
}

// measure records what a stream moved, and what it cost.
func (t *trial) measure(metric string, stream func() ([]int64, error)) error {
	before, err := cpuTimes()
	if err != nil {
		return err
	}
	values, err := stream()
	if err != nil {
		return err
	}
	after, err := cpuTimes()
	if err != nil {
		return err
	}
	if values[0] == 0 || values[1] == 0 {
		return errors.New("stream: nothing was received")
	}
	received, took := float64(values[0]), float64(values[1])
	t.record(metric, received*8/took) // bits a nanosecond
	t.record(metric+"_cpu_machine", (after.machine-before.machine).Seconds()/(received/1e9))
	t.record(metric+"_cpu_processes", (after.processes-before.processes).Seconds()/(received/1e9))
	if frames := values[3]; frames > 0 {
		t.record(metric+"_allocs", 1000*float64(values[2])/float64(frames))
	}
	return nil
}

// packets measures how many datagrams go there and back, and what that costs.
func (t *trial) packets() error {
	server, client, err := t.halves(stack.DefaultMTU)
	if err != nil {
		return err
	}
	before, err := cpuTimes()
	if err != nil {
		return err
	}
	limit := t.stream + answerTime
	reflected := make(chan error, 1)
	go func() {
		_, err := server.request(t.ctx, limit, 0, "reflect", packetSize)
		reflected <- err
	}()
	v, err := client.request(t.ctx, limit, 3, "packets", packetSize, window, t.stream.Milliseconds())
	if err := errors.Join(err, <-reflected); err != nil {
		return err
	}
	after, err := cpuTimes()
	if err != nil {
		return err
	}
	back, lost, took := float64(v[0]), float64(v[1]), float64(v[2])
	if back == 0 || took == 0 {
		return errors.New("packets: none came back")
	}
	t.record("packets", back/took*1e6)
	t.record("packets_lost", 100*lost/(back+lost))
	t.record("packets_cpu", float64((after.processes-before.processes).Microseconds())/back)
	return nil
}

// roundTrips measures round trips.
func (t *trial) roundTrips() error {
	times, err := t.ping()
	if err != nil {
		return err
	}
	t.record("rtt", medianOf(times, time.Microsecond))
	t.record("rtt_p10", quantile(times, 0.1, time.Microsecond))
	t.record("rtt_p90", quantile(times, 0.9, time.Microsecond))
	t.record("rtt_p99", quantile(times, 0.99, time.Microsecond))
	return nil
}

// ping makes the stacks, and returns the times of round trips between them.
func (t *trial) ping() ([]int64, error) {
	if contestantOf(t.contestant).sender != "" {
		first, second, err := t.halves(stack.DefaultMTU)
		if err != nil {
			return nil, err
		}
		echoed := make(chan error, 1)
		go func() {
			_, err := first.request(t.ctx, answerTime, 0, "echo", rttSize)
			echoed <- err
		}()
		times, err := second.request(t.ctx, answerTime, t.rtts, "ping", rttSize, t.rtts)
		return times, errors.Join(err, <-echoed)
	}
	w, err := t.start(t.contestant)
	if err != nil {
		return nil, err
	}
	a, b := locator(t.contestant, t.a), locator(t.contestant, t.b)
	if _, err := w.request(t.ctx, answerTime, 0, "pair", stack.DefaultMTU, a, b); err != nil {
		return nil, err
	}
	return w.request(t.ctx, answerTime, t.rtts, "rtt", rttSize, t.rtts)
}
