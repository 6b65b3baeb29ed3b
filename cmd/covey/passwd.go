package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/covey-mail/covey/node/admin"
)

type passwdCmd struct {
	dataFlags
	Address string `arg:"" help:"The account's address."`
	Hash    string `help:"Password hash with {SCHEME}, instead of a password." placeholder:"HASH"`
}

// Run sets the password.
func (c *passwdCmd) Run(ctx context.Context, io stdio) error {
	req := admin.UserRequest{Address: c.Address}
	if c.Hash != "" {
		req.Hash = &c.Hash
	} else {
		password, err := readPassword(io, "New password of "+c.Address+": ")
		if err != nil {
			return err
		}
		req.Password = &password
	}
	_, err := call[admin.User](ctx, c.dataFlags, admin.UserSet, req)
	return done(io, c.dataFlags, err, "password of "+c.Address+" set")
}

// readPassword reads one line from standard input; from a terminal without
// showing it, and twice. Passwords are never taken from the command line, where
// every user of the host could read them.
func readPassword(std stdio, prompt string) (string, error) {
	f, ok := std.in.(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) {
		return askPassword(std, f, prompt)
	}
	const most = 1024
	line, err := bufio.NewReader(io.LimitReader(std.in, most+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read password: %w", err)
	}
	password := strings.TrimRight(line, "\r\n")
	if password == "" || len(password) > most {
		return "", fmt.Errorf("give a password of 1 to %d octets on standard input", most)
	}
	return password, checkText(password)
}

// checkText refuses what JSON would carry to the node as something else.
func checkText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("not UTF-8: convert it first, such as with iconv")
	}
	return nil
}

func askPassword(std stdio, f *os.File, prompt string) (string, error) {
	fmt.Fprint(std.err, prompt)
	first, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(std.err)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	fmt.Fprint(std.err, "Again: ")
	second, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(std.err)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	if string(first) != string(second) || len(first) == 0 {
		return "", errors.New("the two passwords differ, or are empty: nothing was changed")
	}
	return string(first), checkText(string(first))
}
