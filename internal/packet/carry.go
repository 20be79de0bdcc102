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
