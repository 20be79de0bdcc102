// Soak uses stacks in every way at once, for a bounded time, and looks whether
// anything goes wrong or is left behind:
//
//	go run ./internal/test/soak [-duration 1m] [-seed N] [-v]
//
// It starts itself again in a network namespace of its own, so that no packet
// reaches the machine's network, as root and as an ordinary user alike. There
// several workers do at random what programs do: they open and close stacks on
// networks of all kinds, move data between them and check it, route, look names
// up, join namespaces, make sockets, run commands, list and change the
// configuration. They also kill the switches, plugs and commands that soak has
// started and start them again, and close stacks under everything that runs.
//
// An operation whose stacks and network nobody has touched must succeed. One
// whose stack was closed, or whose network was cut, may fail with the errors
// that belong to that. Everything else is printed and makes the exit status 1,
// as do a hash that is wrong, an operation that takes longer than 40 seconds,
// and at the end a descriptor, goroutine, process, namespace, mount or file
// that was not there at the beginning. The last line of the output is the
// summary.
//
// The seed decides what each worker does; it does not decide how the kernel
// interleaves them, so the same seed repeats the load and not each event.
//
// Programs that are missing (vde_switch, vde_plug, ip) are left out with a note.
package main
