// Package soak has tests only. TestSoak uses stacks in every way at once, for a limited time,
// and checks that nothing goes wrong or is left behind:
//
//	go test ./internal/test/soak -v -duration 1m [-seed N]
//
// Several workers do at random what programs do:
//
//   - They open and close stacks on networks of all kinds, move data between them and check
//     it, route, look names up, join namespaces, make sockets, run commands, list and change
//     the configuration.
//   - They kill switches, plugs and commands that the test has started, and start them again.
//   - They close stacks that others use.
//
// An operation must succeed if nobody has touched its stacks and network. If its stack was
// closed or its network was cut, it may fail with errors that belong to that. Everything
// else fails the test: a wrong hash, an operation that takes longer than 40 seconds, and at
// the end a descriptor, goroutine, process, mount or file that did not exist at the
// beginning. The log ends with the number of operations of each kind.
//
// The seed decides what each worker does, but not how the kernel interleaves them: the same
// seed repeats the load, not each event.
package soak
