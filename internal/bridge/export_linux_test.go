//go:build amd64 || arm64

package bridge

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// Variables that tests of stacks change.
var (
	BridgePorts = &bridgePorts
	MaxBridges  = &maxBridges
	AddLink     = &addLink
	ReapDelay   = &reapDelay
	Crowd       = &crowd
)

// Names returns the names of all switches.
func Names() []string {
	switches.mu.Lock()
	defer switches.mu.Unlock()
	return slices.Sorted(maps.Keys(switches.all))
}

// EndSpare ends what the last network has left, so that the next one is made from the start.
func EndSpare() {
	if s := takeSpare(); s != nil {
		s.hub.close()
	}
}

func theSwitch(name string) *Switch {
	switches.mu.Lock()
	defer switches.mu.Unlock()
	return switches.all[name]
}

// Reap does at once what is done a second later.
func Reap(name string) {
	s := theSwitch(name)
	s.mu.Lock()
	if s.reaper != nil {
		s.reaper.Stop()
	}
	s.mu.Unlock()
	s.reap()
}

// Ports returns how many ports a switch has.
func Ports(t testing.TB, name string) (n int) {
	t.Helper()
	links, err := theSwitch(name).nl.Links()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Master != 0 && strings.HasPrefix(l.Name, "port") {
			n++
		}
	}
	return n
}

// Reserved returns how many interfaces the first bridge of a switch has room taken for.
func Reserved(name string) int {
	s := theSwitch(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bridges[0].ports
}
