//go:build amd64 || arm64

package neigh

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/teardown"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

// few is how many entries of a process are reported before any are marked: most programs
// have fewer. It is a variable for tests.
var few = 64

// keepers are the keepers of the process, mostly one.
var keepers = struct {
	mu  sync.Mutex // guards all; held while a keeper is made
	all map[netns.Base]*keeper
}{all: make(map[netns.Base]*keeper)}

// A keeper marks the neighbours in all namespaces that one helper enters.
type keeper struct {
	base    netns.Base
	users   int         // guarded by keepers.mu
	take    func() bool // has one without users again, if it is not too late; guarded by keepers.mu
	few     int         // the variable
	unused  time.Duration
	reports *os.File      // a socket in the base
	done    chan struct{} // closed at the end of run

	asking   sync.Mutex // guards requests and message; held for a request
	requests int        // the descriptor of another socket there
	message  []byte

	forget atomic.Bool // what is to be marked, when the last user has left

	// Of the goroutine that reads the reports:
	waiting []*Space // with entries to mark
	entries int      // to mark, in all of them
	busy    []*Space // with a socket

	mu     sync.Mutex         // guards the fields below; not held across a system call
	spaces map[int32][]*Space // by number; several may have joined the same namespace
	noted  []*Space           // with entries that were not reported
}

// numbers is the last number that was given to a namespace. Numbers are not used again:
// the kernel keeps them until the namespace is gone.
var numbers atomic.Int32

// A Space is a namespace whose neighbours are marked.
type Space struct {
	k      *keeper
	ns     *netns.NS
	number int32 // in the base

	// socket is 1 more than the descriptor of a socket in the namespace; 0 if there is
	// none. Its user takes it away meanwhile.
	socket atomic.Int32
	closed atomic.Bool

	introduced atomic.Int32 // entries that were not reported, since the table was read

	own *sync.Map // the interfaces, by index; nil: all
	*work
}

// A work is what is to be done in a space. It belongs to the goroutine that reads the
// reports.
type work struct {
	batch []byte // messages that mark entries
	found int    // entries since the table was read
	room  int    // found at which it is read again
	full  bool   // no more are marked until then
}

// Keep begins to mark the neighbours in a namespace: those of all interfaces or, in a
// namespace that has others too, those of Own.
func Keep(ns *netns.NS, all bool) (_ *Space, err error) {
	k, err := keeperOf(ns.Base())
	if err != nil {
		return nil, err
	}
	s := &Space{k: k, ns: ns}
	if !all {
		s.own = new(sync.Map)
	}
	if err := k.add(s); err != nil {
		k.leave()
		return nil, err
	}
	return s, nil
}

// Prepare begins to make what Keep needs for namespaces with a base, in the background.
// release is called after Keep, or instead of it, and waits for that.
func Prepare(base netns.Base) (release func()) {
	made, end := make(chan *keeper, 1), base.Hold()
	go func() {
		defer end()
		k, _ := keeperOf(base) // Keep tries again, and reports the error
		made <- k
	}()
	return func() {
		if k := <-made; k != nil {
			k.leave()
		}
	}
}

// Own adds an interface, in a namespace that has others too.
func (s *Space) Own(index int) {
	if s != nil && s.own != nil {
		s.own.Store(int32(index), true)
	}
}

// Disown removes an interface that is gone: another may get its index.
func (s *Space) Disown(index int) {
	if s != nil && s.own != nil {
		s.own.Delete(int32(index))
	}
}

func (s *Space) owns(index int32) bool {
	if s.own == nil {
		return true
	}
	_, own := s.own.Load(index)
	return own
}

// Close ends that, before the namespace is closed. It does not wait. Marked entries stay
// until their interface is gone. It is called once; s may be nil.
func (s *Space) Close() {
	if s == nil {
		return
	}
	s.closed.Store(true)
	s.putAway()
	s.k.drop(s)
	s.k.leave()
}

func keeperOf(base netns.Base) (_ *keeper, err error) {
	keepers.mu.Lock()
	defer keepers.mu.Unlock()
	k := keepers.all[base]
	if k != nil && k.users == 0 && !k.take() {
		k = nil // ends once keepers.mu is free
	}
	if k == nil {
		if k, err = newKeeper(base); err != nil {
			return nil, err
		}
		keepers.all[base] = k
	}
	k.users++
	return k, nil
}

func (k *keeper) leave() {
	keepers.mu.Lock()
	defer keepers.mu.Unlock()
	if k.users--; k.users > 0 {
		return
	}
	// The next stack needs it, if one follows soon: to make it keeps two processors busy.
	k.take = nil
	k.forget.Store(true)
	if k.base.Current() {
		k.take = netns.Linger(func() {
			keepers.mu.Lock()
			defer keepers.mu.Unlock()
			k.end()
		})
	}
	if k.take == nil {
		k.end()
	}
}

// end ends a keeper without users. keepers.mu is held.
func (k *keeper) end() {
	if keepers.all[k.base] == k {
		delete(keepers.all, k.base)
	}
	unix.Close(k.requests) // only users ask
	k.reports.Close()
	teardown.Go(func() { <-k.done })
}

func newKeeper(base netns.Base) (_ *keeper, err error) {
	k := &keeper{base: base, message: make([]byte, 0, 4<<10), few: few, unused: unused, done: make(chan struct{}), spaces: make(map[int32][]*Space)}
	fds, err := base.Sockets(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	k.requests = fds[0]
	if k.reports, err = listen(fds[1]); err != nil {
		unix.Close(k.requests)
		return nil, err
	}
	go k.run()
	return k, nil
}

// buffer is the room for reports that wait to be read, if the machine's limit
// (net.core.rmem_max) allows it.
const buffer = 4 << 20

// listen has a socket hear of new neighbours, and takes it over.
func listen(fd int) (*os.File, error) {
	fail := func(call string, err error) (*os.File, error) {
		unix.Close(fd)
		return nil, os.NewSyscallError(call, err)
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return fail("setsockopt SO_ATTACH_FILTER", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		return fail("setsockopt NETLINK_LISTEN_ALL_NSID", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_NEIGH - 1)}); err != nil {
		return fail("bind", err)
	}
	return os.NewFile(uintptr(fd), "neighbours"), nil
}

const (
	// valid are the states in which the kernel has a neighbour's address.
	valid = uint16(rtnl.NeighborReachable | rtnl.NeighborStale | rtnl.NeighborDelay | rtnl.NeighborProbe)
	// marked are the flags of entries that do not count, and of proxies.
	marked = unix.NTF_EXT_LEARNED | unix.NTF_PROXY
)

// Offsets in a message of a neighbour.
const (
	atState  = unix.SizeofNlMsghdr + 8
	atFlags  = unix.SizeofNlMsghdr + 10
	atAttrs  = unix.SizeofNlMsghdr + unix.SizeofNdMsg
	atFamily = unix.SizeofNlMsghdr
)

// filter passes the reports of valid entries that are not marked. It keeps the process
// asleep while known neighbours come and go.
var filter = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4}, // the type
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: network(unix.RTM_NEWNEIGH), Jf: 8},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: atFamily},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_INET, Jt: 1},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_INET6, Jf: 5},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: atFlags},
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: marked, Jt: 3},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: atState},
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: network(valid), Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	{Code: unix.BPF_RET | unix.BPF_K},
}

// network returns a number of a message as the filter loads it, in network byte order.
func network(n uint16) uint32 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], n)
	return uint32(binary.BigEndian.Uint16(b[:]))
}

// add gives the namespace of a space a number in the base, and begins to mark its
// entries.
func (k *keeper) add(s *Space) error {
	return s.ns.With(func(ns int) error {
		// Before the kernel knows the number, from when on there may be reports.
		k.put(s, numbers.Add(1))
		_, err := k.ask(unix.RTM_NEWNSID, ns, s.number)
		if err == nil {
			return nil
		}
		k.drop(s)
		if err != unix.EEXIST {
			return err
		}
		// It was joined before, and has a number.
		number, err := k.ask(unix.RTM_GETNSID, ns, 0)
		if err == nil {
			k.put(s, number)
		}
		return err
	})
}

func (k *keeper) put(s *Space, number int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.number = number
	k.spaces[number] = append(k.spaces[number], s)
}

func (k *keeper) drop(s *Space) {
	k.mu.Lock()
	defer k.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(k.spaces[s.number]), func(o *Space) bool { return o == s })
	if k.spaces[s.number] = left; len(left) == 0 {
		delete(k.spaces, s.number)
	}
}

// ask sends a request about the number of the namespace with a descriptor, and returns
// the number. The kernel answers at once.
func (k *keeper) ask(typ uint16, ns int, number int32) (int32, error) {
	const sizeofRtGenMsg = 4
	k.asking.Lock()
	defer k.asking.Unlock()
	flags := uint16(0)
	attributes := []attribute{{unix.NETNSA_FD, binary.NativeEndian.AppendUint32(nil, uint32(ns))}}
	if typ == unix.RTM_NEWNSID {
		flags = unix.NLM_F_ACK
		attributes = append(attributes, attribute{unix.NETNSA_NSID, binary.NativeEndian.AppendUint32(nil, uint32(number))})
	}
	b := message(k.message[:0], typ, flags, make([]byte, sizeofRtGenMsg), attributes...)
	if _, err := unix.Write(k.requests, b); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	b, err := answer(k.requests, k.message[:cap(k.message)], sizeofRtGenMsg)
	switch {
	case err == unix.Errno(0): // the acknowledgement
		return number, nil
	case err != nil:
		return 0, err
	}
	ad, err := netlink.NewAttributeDecoder(b[sizeofRtGenMsg:])
	for err == nil && ad.Next() {
		if ad.Type() == unix.NETNSA_NSID {
			if number = ad.Int32(); number >= 0 {
				return number, nil
			}
		}
	}
	return 0, errAnswer
}

var errAnswer = errors.New("the kernel has no number for the namespace")

const (
	// most is how many reports are read at once.
	most = 256
	// idleTimeout is how long a socket waits for the next report, and mostSockets how
	// many do.
	idleTimeout = 100 * time.Millisecond
	mostSockets = 256
)

// run marks what is reported until the socket is closed.
func (k *keeper) run() {
	defer close(k.done)
	Full(time.Now()) // which compares with this later
	conn, err := k.reports.SyscallConn()
	if err != nil {
		return
	}
	var (
		b, oob = make([]byte, 4<<10), make([]byte, unix.CmsgSpace(4))
		lost   bool
	)
	for {
		lost = false
		err := conn.Read(func(fd uintptr) bool {
			k.drain()
			for n := range most {
				size, oobn, _, from, err := unix.Recvmsg(int(fd), b, oob, 0)
				switch {
				case err == unix.EINTR:
				case err == unix.ENOBUFS:
					lost = true
				case err != nil:
					return n > 0 || err != unix.EAGAIN
				default:
					if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
						continue // a privileged process may send to any netlink socket
					}
					for _, s := range k.named(oob[:oobn]) {
						s.report(b[:size])
					}
				}
			}
			return true
		})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			k.rest()
			k.reports.SetReadDeadline(time.Time{}) // before count: note may set it again
			k.drain()
			k.count()
			continue
		}
		if err != nil {
			k.rest()
			return
		}
		if k.entries > k.few {
			k.open(k.waiting)
			for _, s := range k.waiting {
				s.flush()
			}
			clear(k.waiting)
			k.waiting, k.entries = k.waiting[:0], 0
		}
		if lost {
			for some := range slices.Chunk(k.list(), mostSockets) {
				k.rest()
				k.open(some)
				for _, s := range some {
					s.begin()
					s.sweep()
				}
			}
		}
		if len(k.busy) > mostSockets {
			k.rest()
		}
		if len(k.busy) > 0 {
			k.reports.SetReadDeadline(time.Now().Add(idleTimeout))
		}
	}
}

// drain drops what was to be marked for users that have all left, but not for one that has begun
// since then.
func (k *keeper) drain() {
	if !k.forget.Swap(false) {
		return
	}
	k.waiting = slices.DeleteFunc(k.waiting, func(s *Space) bool { return s.closed.Load() })
	if len(k.waiting) == 0 {
		k.entries = 0
	}
}

// count adds the entries that were not reported, and reads tables that may have too many.
func (k *keeper) count() {
	k.mu.Lock()
	noted := k.noted
	k.noted = nil
	k.mu.Unlock()
	k.open(noted)
	for _, s := range noted {
		s.begin()
		s.found += int(s.introduced.Swap(0))
		s.flush()
	}
	k.rest()
}

// open makes the missing sockets, all at once: then the helper makes them in one round
// trip.
func (k *keeper) open(spaces []*Space) {
	var wg sync.WaitGroup
	for _, s := range spaces {
		if s.socket.Load() == 0 {
			k.busy = append(k.busy, s)
			wg.Go(s.open)
		}
	}
	wg.Wait()
}

// rest closes the sockets.
func (k *keeper) rest() {
	for _, s := range k.busy {
		s.putAway()
	}
	clear(k.busy)
	k.busy = k.busy[:0]
}

// named returns the spaces of the namespace whose number comes with a report.
func (k *keeper) named(oob []byte) []*Space {
	h, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil || h.Level != unix.SOL_NETLINK || h.Type != unix.NETLINK_LISTEN_ALL_NSID || len(data) < 4 {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.spaces[int32(binary.NativeEndian.Uint32(data))]
}

func (k *keeper) list() []*Space {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []*Space
	for _, s := range k.spaces {
		all = append(all, s...)
	}
	return all
}
