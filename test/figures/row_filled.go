package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/covey-mail/covey/bench"
)

// A filledStore is a data folder with much mail, made once for the rows start and
// store. A file beside the data says what is in it, so that a run that was broken
// off, or the next one, goes on from there.
type filledStore struct {
	folder string

	Accounts int   `json:"accounts"`
	Messages int64 `json:"messages"` // at least; those of the last portion of a broken run are not counted
	Size     int   `json:"size"`     // of each
}

// Of the filled store.
const (
	filledMessages = 1_000_000
	filledAccounts = 50_000
	filledPortion  = 50_000 // messages sent between two notes of how many there are
	messageSize    = 8 << 10

	shortMessages, shortAccounts = 2000, 200
)

func (s *filledStore) data() string { return filepath.Join(s.folder, "data") }
func (s *filledStore) note() string { return filepath.Join(s.folder, "filled.json") }

// fill returns the filled store, with at least as many messages as it is to have.
func (l *lab) fill(ctx context.Context) (*filledStore, error) {
	s := &filledStore{folder: l.filled, Accounts: l.count(filledAccounts, shortAccounts), Size: messageSize}
	if s.folder == "" {
		s.folder = filepath.Join(filepath.Dir(l.dir), "filled") // goes with what the run has made
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	missing := int64(l.count(filledMessages, shortMessages)) - s.Messages
	if missing <= 0 {
		return s, nil
	}
	if err := s.room(missing); err != nil {
		return nil, err
	}
	return s, s.top(ctx, l, missing)
}

// open reads what is there. A folder without a note holds what nobody knows.
func (s *filledStore) open() error {
	text, err := os.ReadFile(s.note())
	if errors.Is(err, os.ErrNotExist) {
		if err := os.RemoveAll(s.data()); err != nil {
			return err
		}
		return os.MkdirAll(s.data(), 0o700)
	}
	if err != nil {
		return err
	}
	have := filledStore{folder: s.folder}
	if err := json.Unmarshal(text, &have); err != nil {
		return fmt.Errorf("%s says nothing of a filled store: %w", s.note(), err)
	}
	if have.Accounts != s.Accounts || have.Size != s.Size {
		return fmt.Errorf("the store in %s has %d accounts and messages of %d bytes, not %d and %d: give another folder",
			s.folder, have.Accounts, have.Size, s.Accounts, s.Size)
	}
	*s = have
	return nil
}

// add notes n more messages.
func (s *filledStore) add(n int64) error {
	s.Messages += n
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(s.note(), append(text, '\n'), 0o644)
}

// room checks that the disk has room for n more messages, their rows, and what
// the rows do with the store.
func (s *filledStore) room(n int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.folder, &st); err != nil {
		return err
	}
	free, need := int64(st.Bavail)*st.Bsize, n*int64(s.Size)*3/2+2<<30
	if n < 10*shortMessages {
		need = n * int64(s.Size) * 2
	}
	if free < need {
		return fmt.Errorf("%d messages need %d MiB in %s, which has %d: give another folder with -dir or -filled", n, need>>20, s.folder, free>>20)
	}
	return nil
}

// top adds messages to the store.
func (s *filledStore) top(ctx context.Context, l *lab, missing int64) error {
	l.say("filling %s with %d messages for %d accounts", s.folder, missing, s.Accounts)
	node, err := l.start(s.data())
	if err != nil {
		return err
	}
	if s.Messages == 0 {
		if err := l.addAccounts(ctx, node, s.Accounts); err != nil {
			return err
		}
	}
	for missing > 0 {
		cfg := l.intake(node, s.Accounts)
		cfg.Seed, cfg.Count = uint64(s.Messages), min(missing, filledPortion)
		res, err := l.load(ctx, cfg)
		if err != nil {
			return err
		}
		missing -= res.Done
		if err := s.add(res.Done); err != nil {
			return err
		}
	}
	return node.node.Stop()
}

// addAccounts gives a new node its domain and the accounts user00000 and so on.
func (l *lab) addAccounts(ctx context.Context, s *server, n int) error {
	if _, err := s.node.Covey(ctx, "", "domain", "add", domain); err != nil {
		return err
	}
	_, err := s.node.Covey(ctx, userLines(makeAccounts("user", n)), "user", "import", "-")
	return err
}

// intake is a load of 8 KiB messages by SMTP on kept-open connections, to each of
// the accounts in turn. What ends it is to be filled in.
func (l *lab) intake(s *server, accounts int) bench.Config {
	return bench.Config{
		Protocol: bench.SMTP, Addr: s.addr["smtp"], Conns: l.connsOf(64),
		Users: accounts, UserPattern: "user%05d@" + domain, Size: messageSize,
	}
}

// inTurn runs loads for as long each, in turn, in every other round the other way
// round, so that what changes on the machine meets all, and returns the rates that
// each had.
func (l *lab) inTurn(ctx context.Context, rounds int, loads ...bench.Config) (rates [][]float64, err error) {
	rates = make([][]float64, len(loads))
	for round := range rounds {
		for i := range loads {
			if round%2 == 1 {
				i = len(loads) - 1 - i
			}
			cfg := loads[i]
			cfg.Seed = uint64(time.Now().UnixNano())
			res, err := l.load(ctx, cfg)
			if err != nil {
				return nil, err
			}
			rates[i] = append(rates[i], res.Rate)
		}
	}
	return rates, nil
}

// inPairs returns the median of what each round gave over another load of the same
// round: what changes on the machine from one minute to the next meets both.
func inPairs(rates, others []float64) float64 {
	ratios := make([]float64, len(rates))
	for i := range ratios {
		ratios[i] = rates[i] / others[i]
	}
	return middle(ratios)
}

// roundsOf is how many rounds there are: as the command line says, or full, or
// with -short one.
func (l *lab) roundsOf(full int) int {
	if l.rounds > 0 {
		return l.rounds
	}
	return l.count(full, 1)
}

// middle returns the median.
func middle(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}
