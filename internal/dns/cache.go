package dns

import (
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// maxKept is the size of the largest message that is kept: it bounds the memory of a cache,
// and what a server can fill it with.
const maxKept = 4096

// A cache keeps replies. A nil cache keeps none.
type cache struct {
	max int

	mu      sync.Mutex // guards entries
	entries map[cacheKey]cacheEntry
}

type cacheKey struct {
	name string // folded
	typ  dnsmessage.Type
}

type cacheEntry struct {
	reply reply // not changed any more
	since time.Time
}

func newCache(max int) *cache { return &cache{max: max, entries: make(map[cacheKey]cacheEntry)} }

func keyOf(q dnsmessage.Question) cacheKey { return cacheKey{fold(q.Name.String()), q.Type} }

// expired reports whether the time of the entry is over, by either clock: the monotonic one
// stands still while the machine sleeps, and the other may be set back.
func (e *cacheEntry) expired(now time.Time) bool {
	ttl := time.Duration(e.reply.ttl) * time.Second
	return now.Sub(e.since) >= ttl || now.Round(0).Sub(e.since.Round(0)) >= ttl
}

func (c *cache) get(q dnsmessage.Question) (reply, bool) {
	if c == nil {
		return reply{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := keyOf(q)
	e, ok := c.entries[key]
	if ok && e.expired(time.Now()) {
		delete(c.entries, key)
		ok = false
	}
	return e.reply, ok
}

// put keeps a reply for its time. In a full cache it takes the place of one whose time is
// over, or of any.
func (c *cache) put(q dnsmessage.Question, r reply) {
	if c == nil || r.ttl == 0 {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	key := keyOf(q)
	if _, ok := c.entries[key]; !ok && len(c.entries) >= c.max {
		c.evict(now)
	}
	c.entries[key] = cacheEntry{r, now}
}

// evict makes room for one entry: the first of a few that has expired, or the last of them.
// The order of a map is random.
func (c *cache) evict(now time.Time) {
	const few = 16
	var victim cacheKey
	looked := 0
	for key, e := range c.entries {
		victim = key
		if looked++; looked == few || e.expired(now) {
			break
		}
	}
	delete(c.entries, victim)
}
