// Soak uses stacks in every way at once, for a limited time, and checks that nothing goes
// wrong or is left behind:
//
//	go run ./internal/test/soak [-duration 1m] [-seed N] [-v]
//
// It starts itself again in a network namespace of its own, so that no packet reaches the
// machine's network, as root and as an ordinary user alike. Several workers there do at
// random what programs do:
//
//   - They open and close stacks on networks of all kinds, move data between them and check
//     it, route, look names up, join namespaces, make sockets, run commands, list and change
//     the configuration.
//   - They kill switches, plugs and commands that soak has started, and start them again.
//   - They close stacks that others use.
//
// An operation must succeed if nobody has touched its stacks and network. If its stack was
// closed or its network was cut, it may fail with errors that belong to that. Everything
// else is printed and makes the exit status 1: a wrong hash, an operation that takes longer
// than 40 seconds, and at the end a descriptor, goroutine, process, namespace, mount or
// file that did not exist at the beginning. The last line of the output is the summary.
//
// The seed decides what each worker does, but not how the kernel interleaves them: the same
// seed repeats the load, not each event.
//
// If programs are missing (vde_switch, vde_plug, ip), what needs them is left out with a
// note.
package main
