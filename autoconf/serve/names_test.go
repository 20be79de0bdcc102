package serve

import "testing"

// TestNamesBelow counts the names below others.
func TestNamesBelow(t *testing.T) {
	n := makeNames[binding]()
	all := []string{"a.b.lab", "c.b.lab", "b.lab", "x.y.z.lab"}
	for _, name := range all {
		n.set(name, &binding{})
	}
	for name, want := range map[string]int{"lab": 4, "b.lab": 2, "y.z.lab": 1, "z.lab": 1, "a.b.lab": 0, "": 0} {
		if got := n.below[name]; got != want {
			t.Errorf("%d names below %s, want %d", got, name, want)
		}
	}
	for _, name := range append(all, all...) {
		n.delete(name)
	}
	if len(n.by)+len(n.below) > 0 {
		t.Errorf("left: %v, %v", n.by, n.below)
	}
}
