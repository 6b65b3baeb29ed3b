package main

import (
	_ "embed"
	"errors"
	"io"
)

//go:embed goals.svg
var goalsSVG string

// Measures of the drawing in its own units; goals.svg has the rest.
const (
	goalsTop   = 80
	goalsPace  = 44
	goalsMark  = 400 // how far right the goal is
	goalsWhole = 680 // of the longest bar, which may stand for more
)

// A goalBar is one figure as it is drawn.
type goalBar struct {
	Name, Value, Goal, Verdict string
	Y, Width, Mark             int
}

// drawGoals writes a chart of all figures that have a goal. What was only tried is
// left out.
func drawGoals(w io.Writer, list []report) error {
	var bars []goalBar
	for _, rep := range list {
		for _, f := range rep.Figures {
			if f.Goal == 0 || rep.Short {
				continue
			}
			value := number(f.Value)
			if f.Unit != "" {
				value += " " + f.Unit
			}
			bars = append(bars, goalBar{
				Name: rep.Row + ": " + f.Name, Value: value, Goal: f.goal(), Verdict: f.verdict(),
				Y:     goalsTop + goalsPace*len(bars),
				Width: min(max(int(goalsMark*f.Value/f.Goal+0.5), 1), goalsWhole), Mark: 20 + goalsMark,
			})
		}
	}
	if len(bars) == 0 {
		return errors.New("there is no figure with a goal to draw")
	}
	return draw(w, goalsSVG, map[string]any{"Bars": bars, "Height": goalsTop + goalsPace*len(bars)})
}
