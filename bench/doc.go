// Command bench measures stacks of this module beside the kernel's veth pair
// and the C library libvdestack, in one table:
//
//	go run ./bench          # the whole table, a few minutes
//	go run ./bench -quick   # every measurement once, shorter than a minute
//
// Everything runs in a network namespace that the program makes for itself, as
// root or as an ordinary user. The contestants take turns in every round, so
// that a disturbance meets all of them. What needs a program that is missing is
// left out, with a note.
//
// Each contestant is a worker: a program that makes the stacks and moves the
// data, as package bench/internal/worker describes. The workers in Go are this
// program itself, the one in C is built with gcc against libvdestack. A new
// contestant or network is an entry of a table in tables_linux.go.
package main
