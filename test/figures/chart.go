package main

import (
	_ "embed"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/template"
)

//go:embed chart.svg
var chartSVG string

// Measures of the chart in its own units; chart.svg has the rest.
const (
	chartTop  = 76  // of the first contest
	chartPace = 74  // from one contest to the next
	chartBars = 440 // width of the longest bar
	chartRoom = 34  // below the last contest
)

// A pair is one contest as it is drawn. Its longer bar has the full width.
type pair struct {
	Name, Ratio string
	Y           int
	Bars        []bar
}

type bar struct {
	Server, Class, Rate string
	Y, Width, End       int
}

// chart draws the file that -json wrote, of peers or of rows.
func chart(args []string) error {
	flags := flag.NewFlagSet("chart", flag.ContinueOnError)
	in := flags.String("in", "peers.json", "what -json wrote, of peers or of rows")
	out := flags.String("out", "docs/performance.svg", "where the chart goes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*in)
	if err != nil {
		return err
	}
	var svg strings.Builder
	if err := drawAny(&svg, text); err != nil {
		return fmt.Errorf("%s: %w", *in, err)
	}
	return os.WriteFile(*out, []byte(svg.String()), 0o644)
}

// drawAny draws what the file holds.
func drawAny(w io.Writer, text []byte) error {
	var rows []report
	if err := json.Unmarshal(text, &rows); err != nil {
		return fmt.Errorf("it is not from -json: %w", err)
	}
	if len(rows) > 0 && rows[0].Row != "" {
		return drawGoals(w, rows)
	}
	b := &board{}
	if err := json.Unmarshal(text, &b.entries); err != nil {
		return fmt.Errorf("it is not from peers: %w", err)
	}
	return b.draw(w)
}

// draw writes the chart. It holds no script and nothing from elsewhere, and goes
// with a light and a dark page.
func (b *board) draw(w io.Writer) error {
	var pairs []pair
	for _, c := range contests() {
		rate := b.rates(c)
		if rate[0] <= 0 || rate[1] <= 0 {
			continue // it was left out
		}
		p := pair{
			Name: c.name, Y: chartTop + chartPace*len(pairs),
			Ratio: fmt.Sprintf("%s × %s, goal %g", number(rate[1]/rate[0]), c.peer, c.goal),
		}
		for i, server := range []string{c.peer, "Covey"} {
			width := int(chartBars*rate[i]/max(rate[0], rate[1]) + 0.5)
			p.Bars = append(p.Bars, bar{
				Server: server, Class: []string{"peer", "covey"}[i], Rate: number(rate[i]) + "/s",
				Y: p.Y + 10 + 22*i, Width: width, End: 120 + width + 8,
			})
		}
		pairs = append(pairs, p)
	}
	if len(pairs) == 0 {
		return errors.New("there is no contest to draw")
	}
	return draw(w, chartSVG, map[string]any{"Pairs": pairs, "Height": chartTop + chartPace*len(pairs) - chartPace + 56 + chartRoom, "Rounds": b.played()})
}

// draw fills in a drawing, whose functions escape text and add numbers.
func draw(w io.Writer, svg string, data any) error {
	escape := template.FuncMap{"xml": func(s string) (string, error) {
		var safe strings.Builder
		err := xml.EscapeText(&safe, []byte(s))
		return safe.String(), err
	}, "plus": func(a, b int) int { return a + b }}
	return template.Must(template.New("chart").Funcs(escape).Parse(svg)).Execute(w, data)
}

// played is how many rounds there were.
func (b *board) played() int {
	last := 0
	for _, e := range b.entries {
		last = max(last, e.Round)
	}
	return last + 1
}
