// Command bench measures stacks of this module and, in the same run, the kernel's veth
// pair, the C library libvdestack and gVisor's stack:
//
//	go run ./bench          # everything, about eight minutes
//	go run ./bench -quick   # every measurement once, less than a minute
//
// It runs in a network namespace that it makes for itself, as root or as an ordinary
// user. In every round all contestants are measured one after the other, so that a
// disturbance affects all of them. What needs a program that is missing is left out,
// with a note.
//
// Each contestant is a worker: a program that makes the stacks and moves the data, see
// package bench/internal/worker. Two workers are this program itself, the one for
// libvdestack is built with gcc, and those for gVisor and WireGuard are modules of
// their own.
// Contestants, networks, measurements and targets are tables, in the files of these
// names.
package main
