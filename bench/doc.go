// Command bench measures stacks of this module beside the kernel's veth pair,
// the C library libvdestack and gVisor's stack, in one run:
//
//	go run ./bench          # everything, about eight minutes
//	go run ./bench -quick   # every measurement once, shorter than a minute
//
// Everything runs in a network namespace that the program makes for itself, as
// root or as an ordinary user. The contestants take turns in every round, so
// that a disturbance meets all of them. What needs a program that is missing is
// left out, with a note.
//
// Each contestant is a worker: a program that makes the stacks and moves the
// data, as package bench/internal/worker describes. Two of the workers are this
// program itself, the one for libvdestack is built with gcc, and the one for
// gVisor is a module of its own. Contestants, networks and measurements are
// tables, in the files of these names, and what the results are compared with is
// one in verdict.go.
package main
