package packet

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestTurn ends a turn when enough time was spent, in one piece or several.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turn Turn
		turn.Begin()
		if turn.Over() {
			t.Error("the turn is over before anything is done")
		}
		time.Sleep(turnTime / 2)
		if turn.Over() {
			t.Error("the turn is over after half of it")
		}
		time.Sleep(turnTime) // without work
		turn.Begin()
		if turn.Over() {
			t.Error("time without work counts")
		}
		time.Sleep(turnTime / 2)
		if !turn.Over() {
			t.Error("the turn goes on after its time")
		}
		others := false
		go func() { others = true }()
		turn.Yield()
		synctest.Wait()
		if !others || turn.Over() {
			t.Errorf("others ran: %v, over at its beginning: %v", others, turn.Over())
		}
		time.Sleep(turnTime)
		turn.End() // yields
		if turn.Over() {
			t.Error("End does not begin the next turn")
		}
	})
}
