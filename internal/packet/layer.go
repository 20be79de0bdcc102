package packet

// A Layer is embedded by transports that work on another transport.
type Layer struct {
	Counters
	Inner Transport
}

// Below returns the transport that the layer is on.
func (l *Layer) Below() Transport { return l.Inner }

// Dropped returns the counts of the layer and of those below it.
func (l *Layer) Dropped() (recv, send uint64) {
	recv, send = l.Counters.Dropped()
	r, s := Dropped(l.Inner)
	return recv + r, send + s
}

// Find returns the first T among a transport and those below it.
func Find[T any](t Transport) (found T, ok bool) {
	for t != nil {
		if found, ok = t.(T); ok {
			return found, true
		}
		switch upper := t.(type) {
		case interface{ Below() Transport }:
			t = upper.Below()
		case *frames:
			found, ok = upper.conn.(T)
			return found, ok
		default:
			return found, false
		}
	}
	return found, false
}
