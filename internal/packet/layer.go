package packet

// A Layer is embedded by transports that are on another one.
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
			break
		}
		upper, layered := t.(interface{ Below() Transport })
		if !layered {
			break
		}
		t = upper.Below()
	}
	return found, ok
}
