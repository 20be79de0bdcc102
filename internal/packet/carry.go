package packet

// Carry carries packets from one transport to another until one of them fails, and
// returns that one.
func Carry(from, to Transport) (failed Transport, err error) {
	var b Buffer
	defer b.Release()
	var turn Turn
	for {
		packets, err := from.RecvPackets(&b)
		if err != nil {
			return from, err
		}
		turn.Begin()
		if err := to.SendPackets(packets, true); err != nil {
			return to, err
		}
		turn.End()
	}
}

// A Failure is the error of a transport.
type Failure struct {
	Of  Transport
	Err error
}

// Join carries packets between two transports, both ways. The channel gets what ends each
// way.
func Join(a, b Transport) <-chan Failure {
	ended := make(chan Failure, 2)
	for _, way := range [][2]Transport{{a, b}, {b, a}} {
		go func() {
			of, err := Carry(way[0], way[1])
			ended <- Failure{of, err}
		}()
	}
	return ended
}
