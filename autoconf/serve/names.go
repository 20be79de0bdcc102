package serve

import "strings"

// maxLabels is how many labels a name of a client has below the domain.
const maxLabels = 8

// names has who has a name.
type names[B any] struct {
	by map[string]*B
	// below counts the names below others, which nobody need have.
	below map[string]int
}

func makeNames[B any]() names[B] { return names[B]{make(map[string]*B), make(map[string]int)} }

// set gives a name that nobody has to b.
func (n *names[B]) set(name string, b *B) {
	n.by[name] = b
	for parent := range parents(name) {
		n.below[parent]++
	}
}

// delete takes a name back.
func (n *names[B]) delete(name string) {
	if _, ok := n.by[name]; !ok {
		return
	}
	delete(n.by, name)
	for parent := range parents(name) {
		if n.below[parent]--; n.below[parent] == 0 {
			delete(n.below, parent)
		}
	}
}

// parents are the names that a name is below.
func parents(name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, parent, ok := strings.Cut(name, "."); ok; _, parent, ok = strings.Cut(parent, ".") {
			if !yield(parent) {
				return
			}
		}
	}
}
