package directory

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory/password"
)

// Limits of Import.
const (
	importBatch   = 500  // accounts in one command
	maxImportLine = 4096 // octets
	maxLineErrors = 1000 // kept of an import
)

// An Imported says what became of a file.
type Imported struct {
	Lines     int // read so far
	Added     int
	Updated   int // accounts that were there and have another password now
	Unchanged int // accounts that were there with this password
	Failed    int
	Errors    []LineError // the first 1,000 failures, in the order of lines
}

// A LineError is why one line was not imported.
type LineError struct {
	Line int // from 1
	Err  error
}

// Import reads accounts, one a line: an address, one blank, tab or colon, and a
// password, or a hash with its {SCHEME}. Empty lines and lines that start with #
// are passed over; a line has at most 4,096 octets. Passwords in clear are hashed,
// which takes some 20 ms of a core each; {PLAIN} marks one that starts with a
// brace.
//
// A line that cannot be taken does not stop the others. An account that exists gets
// the line's password and keeps everything else, so that a file may be imported
// again: what it says twice is left as it is. New accounts get quota, or with
// DefaultQuota that of the settings. progress, if not nil, is called now and then by
// the same goroutine.
//
// On an error the result says how far it came; importing again goes on from there.
func (s *Service) Import(ctx context.Context, r io.Reader, quota int64, progress func(Imported)) (Imported, error) {
	im := importer{service: s, lines: bufio.NewReaderSize(r, maxImportLine), quota: quota}
	for {
		batch, err := im.read()
		if len(batch) > 0 {
			if err := im.add(ctx, batch); err != nil {
				return im.done, fmt.Errorf("import up to line %d: %w", im.done.Lines, err)
			}
		}
		if progress != nil {
			progress(im.done)
		}
		if errors.Is(err, io.EOF) {
			return im.done, nil
		}
		if err != nil {
			return im.done, fmt.Errorf("import line %d: %w", im.done.Lines+1, err)
		}
	}
}

// An importer is one import under way.
type importer struct {
	service *Service
	lines   *bufio.Reader
	quota   int64
	done    Imported
}

// A line is one account to import.
type line struct {
	number int
	addr   covey.Address
	secret string
	hashed NewAccount // once sealed
	err    error
}

func (im *importer) fail(number int, err error) {
	im.done.Failed++
	im.service.metrics.imported.WithLabelValues("failed").Inc()
	if len(im.done.Errors) < maxLineErrors {
		im.done.Errors = append(im.done.Errors, LineError{number, err})
	}
}

// read returns the next batch; with io.EOF the last, which may be empty.
func (im *importer) read() ([]line, error) {
	var batch []line
	for len(batch) < importBatch {
		text, err := im.readLine()
		if err != nil && !errors.Is(err, covey.TooBig) {
			return batch, err
		}
		im.done.Lines++
		if im.done.Lines == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
		}
		if err == nil && (strings.TrimSpace(text) == "" || text[0] == '#') {
			continue
		}
		l := line{number: im.done.Lines}
		if err == nil {
			l.addr, l.secret, err = parseLine(text)
		}
		if err != nil {
			im.fail(l.number, err)
			continue
		}
		batch = append(batch, l)
	}
	return batch, nil
}

// readLine returns a line without its end. TooBig: it was longer than a line may
// be, and was passed over.
func (im *importer) readLine() (string, error) {
	p, err := im.lines.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = im.lines.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		return "", covey.Errorf(covey.TooBig, "longer than %d octets", maxImportLine)
	}
	if err != nil && (len(p) == 0 || !errors.Is(err, io.EOF)) {
		return "", err
	}
	p = bytes.TrimSuffix(p, []byte("\n"))
	return string(bytes.TrimSuffix(p, []byte("\r"))), nil
}

// parseLine takes a line apart. Its errors do not quote the password.
func parseLine(text string) (covey.Address, string, error) {
	end := strings.IndexAny(text, " \t:")
	if strings.HasPrefix(text, `"`) { // the local part is quoted: look behind its end
		if at := strings.LastIndex(text, `"@`); at > 0 {
			if end = strings.IndexAny(text[at:], " \t:"); end >= 0 {
				end += at
			}
		}
	}
	if end < 0 {
		return covey.Address{}, "", covey.Errorf(covey.Invalid, "want an address, a blank, and a password or hash")
	}
	addr, err := covey.ParseAddress(text[:end])
	if err != nil {
		return covey.Address{}, "", err
	}
	secret := text[end+1:]
	if _, value, clear := password.Split(secret); clear {
		return addr.Key(), secret, password.Acceptable(value)
	}
	secret = strings.TrimSpace(secret)
	return addr.Key(), secret, password.Check(secret)
}

// add hashes what has to be hashed and proposes the batch as one command.
func (im *importer) add(ctx context.Context, batch []line) error {
	im.sealAll(ctx, batch)
	c := AddAccounts{Update: true, Time: im.service.now()}
	var sent []line
	for _, l := range batch {
		switch {
		case errors.Is(l.err, covey.Unavailable):
			return l.err
		case l.err != nil:
			im.fail(l.number, l.err)
		default:
			c.Accounts = append(c.Accounts, l.hashed)
			sent = append(sent, l)
		}
	}
	if len(sent) == 0 {
		return nil
	}
	result, err := im.service.propose(ctx, c)
	if err != nil {
		return err
	}
	for i, r := range result.([]AddResult) {
		im.count(sent[i].number, r)
	}
	return nil
}

func (im *importer) count(number int, r AddResult) {
	if r.Err != nil {
		im.fail(number, r.Err)
		return
	}
	label := ""
	switch r.Outcome {
	case Added:
		im.done.Added++
		label = "added"
	case Updated:
		im.done.Updated++
		label = "updated"
	case Unchanged:
		im.done.Unchanged++
		label = "unchanged"
	}
	im.service.metrics.imported.WithLabelValues(label).Inc()
}

// sealAll seals every line of a batch, on all cores. It returns when all are done.
func (im *importer) sealAll(ctx context.Context, batch []line) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(batch)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(batch)); i = next.Add(1) - 1 {
				l := &batch[i]
				l.hashed = NewAccount{Address: l.addr, Quota: im.quota}
				l.hashed.Hash, l.hashed.Verifier, l.err = im.service.sealAgain(ctx, l.addr, l.secret)
			}
		})
	}
	wg.Wait()
}

// sealAgain is seal, but for a password in clear that the account has already: it
// keeps the account's hash.
func (s *Service) sealAgain(ctx context.Context, addr covey.Address, secret string) (hash, verifier string, err error) {
	if _, clear, isClear := password.Split(secret); isClear {
		is, err := s.Credentials(ctx, addr)
		if err == nil && is.Hash != "" {
			same, err := s.hasher.Verify(ctx, is.Hash, clear)
			if err == nil && same {
				return is.Hash, is.Verifier, nil
			}
		}
	}
	return s.seal(ctx, secret)
}
