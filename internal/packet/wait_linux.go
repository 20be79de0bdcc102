package packet

import "syscall"

// A Receiver reads from a descriptor.
type Receiver interface {
	// Receive puts what is there into b, without blocking. It reports false if
	// there is nothing yet.
	Receive(fd int, b *Buffer) (done bool, err error)
}

// A waiter calls a Receiver from [syscall.RawConn]. It lives as long as the buffer, so that
// the function is not allocated for each call.
type waiter struct {
	from Receiver
	err  error
	read func(fd uintptr) bool
}

// Receive waits until r has put something into b, or has an error. Meanwhile b has no
// memory. closed is the error of the descriptor itself: it was closed, or its deadline is
// over.
func (b *Buffer) Receive(raw syscall.RawConn, r Receiver) (err, closed error) {
	if b.wait.read == nil {
		b.wait.read = b.read
	}
	b.wait.from = r
	closed = raw.Read(b.wait.read)
	err = b.wait.err
	b.wait.from, b.wait.err = nil, nil
	return err, closed
}

func (b *Buffer) read(fd uintptr) bool {
	b.take()
	done, err := b.wait.from.Receive(int(fd), b)
	b.wait.err = err
	if !done && err == nil {
		b.Release()
		return false
	}
	return true
}
