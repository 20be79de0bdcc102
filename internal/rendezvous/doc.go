// Package rendezvous lets the processes of one user share a descriptor at a path, for as
// long as any of them lives.
//
// One member serves a local socket at the path, and sends the descriptor to newcomers,
// which ask for it with a byte. When it leaves or is killed, another one does. Three bytes of a lock file beside it,
// PATH.lock, say who is there; the kernel releases the locks of the dead:
//
//   - door is held by a newcomer, or by one that leaves, for a moment;
//   - serves, by the one with the socket;
//   - members, shared, by all.
//
// So a newcomer that holds the door and finds nobody at the socket knows whether somebody
// is about to serve it, or it is the first. Only who holds serves makes and removes the
// socket; only who holds the door and members alone, the lock file.
package rendezvous
