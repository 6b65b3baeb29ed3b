package imapd

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/handoff"
)

// homes sends every session to another server over a connection, as a link
// between nodes would.
type homes struct {
	t    testing.TB
	home *Server
	err  error

	mu   sync.Mutex // guards what follows
	got  handoff.Login
	conn net.Conn // the home's end
}

func (h *homes) Home(ctx context.Context, service string, l handoff.Login) (net.Conn, error) {
	if h.err != nil || h.home == nil {
		return nil, h.err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := listener.Accept()
	if err != nil {
		return nil, err
	}
	got, err := handoff.Decode(l.Encode())
	if err != nil || service != Service {
		h.t.Errorf("service %q, login %+v: %v", service, l, err)
	}
	h.mu.Lock()
	h.conn, h.got = far, got
	h.mu.Unlock()
	h.home.Resume(far, got)
	return near, handoff.Await(ctx, near)
}

// twoNodes is a front whose sessions run on another server.
func twoNodes(t *testing.T, change func(*rig, *Config)) (front, home *rig, h *homes) {
	home = start(t, change)
	h = &homes{t: t, home: home.server}
	front = start(t, func(_ *rig, cfg *Config) { cfg.Homes = h })
	return front, home, h
}

// A session that runs on another node is like any other: what was sent ahead is
// not lost, and the home knows who the client is.
func TestSessionRunsAtHome(t *testing.T) {
	front, home, h := twoNodes(t, nil)
	home.deliver(t, "alice", "INBOX", testMessage)
	c := front.dial(t)
	c.send("x1 LOGIN alice secret\r\nx2 SELECT INBOX\r\nx3 FETCH 1 BODY.PEEK[]\r\n")
	if _, tagged := c.until("x1"); !strings.HasPrefix(tagged, "OK [CAPABILITY ") {
		t.Errorf("login: %s", tagged)
	}
	if _, tagged := c.until("x2"); !strings.HasPrefix(tagged, "OK") {
		t.Errorf("select: %s", tagged)
	}
	if body, _ := c.until("x3"); len(body) != 1 || !strings.Contains(body[0], testMessage) {
		t.Errorf("fetch: %q", body)
	}
	c.ok("LOGOUT")
	want := handoff.Login{Account: 1, Shard: 1, Address: covey.Address{Local: "alice", Domain: "example.org"}, Remote: c.conn.LocalAddr().String(), Mechanism: "LOGIN"}
	h.got.Leftover, h.got.Session = nil, ""
	if d := cmp.Diff(want, h.got); d != "" {
		t.Errorf("login at home (-want +got):\n%s", d)
	}
}

// What the home node says of a log-in is what the client hears.
func TestHomeRefuses(t *testing.T) {
	front, _, h := twoNodes(t, func(_ *rig, cfg *Config) { cfg.PerUser = 1 })
	first := front.login(t, "alice")
	if _, tagged := front.dial(t).cmd("LOGIN alice secret"); !strings.HasPrefix(tagged, "NO [LIMIT]") {
		t.Errorf("second session: %s", tagged)
	}
	first.ok("NOOP")
	h.err = covey.Errorf(covey.Unavailable, "no leader")
	if _, tagged := front.dial(t).cmd("LOGIN bob secret"); !strings.HasPrefix(tagged, "NO [UNAVAILABLE]") {
		t.Errorf("no home: %s", tagged)
	}
}

// Design section 4: when the shard's leader moves, the session ends with the right
// word.
func TestEndOfAShard(t *testing.T) {
	front, home, _ := twoNodes(t, nil)
	c := front.selected(t, "alice")
	home.server.End(2)
	c.ok("NOOP")
	home.server.End(1)
	if got := c.line(); !strings.HasPrefix(got, "* BYE [UNAVAILABLE]") {
		t.Errorf("got %q", got)
	}
	if rest, err := io.ReadAll(c.br); len(rest) > 0 || err != nil {
		t.Errorf("then %q, %v", rest, err)
	}
}

func TestDeadHomeEndsTheSession(t *testing.T) {
	front, _, h := twoNodes(t, nil)
	c := front.selected(t, "alice")
	_ = h.conn.(*net.TCPConn).SetLinger(0) // as when the node dies
	_ = h.conn.Close()
	if got := c.line(); !strings.HasPrefix(got, "* BYE [UNAVAILABLE]") {
		t.Errorf("got %q", got)
	}
}

func TestShutdownOfTheFront(t *testing.T) {
	front, _, _ := twoNodes(t, nil)
	c := front.selected(t, "alice")
	c.send("x1 IDLE\r\n")
	if got := c.line(); !strings.HasPrefix(got, "+ ") {
		t.Fatalf("got %q", got)
	}
	if err := front.server.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if rest, err := io.ReadAll(c.br); !strings.HasSuffix(string(rest), farewell) || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
}

// throughAnother reports whether the clients of a test come through another node.
func throughAnother(t testing.TB) bool { return strings.HasPrefix(t.Name(), "TestI40_") }

// I-40: a session that another node lets in and passes on is, octet by octet, like
// one here. Left out is what has a server, a connection or a session of its own in
// hand, and what fails before a log-in.
func TestI40_ThroughAnotherNode(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"Dialogue": TestDialogue, "DefaultFolders": TestDefaultFolders, "CopyMoveUID": TestCopyMoveUID, "CreateWithUse": TestCreateWithUse,
		"AppendAnswersWhatFollows": TestAppendAnswersWhatFollows, "AuthenticateRefused": TestAuthenticateRefused, "ClearTextPolicy": TestClearTextPolicy,
		"ExtendedList": TestExtendedList, "ExtendedSearch": TestExtendedSearch, "FailingShard": TestFailingShard, "FetchDamaged": TestFetchDamaged,
		"FetchItems": TestFetchItems, "FetchKeepsOrder": TestFetchKeepsOrder, "FetchLargeParts": TestFetchLargeParts, "FetchNeedsMailbox": TestFetchNeedsMailbox,
		"FrontCapabilities": TestFrontCapabilities, "LoginByEveryWay": TestLoginByEveryWay, "NamesOnTheWire": TestNamesOnTheWire, "PipelinedLogin": TestPipelinedLogin,
		"Quota": TestQuota, "ReadOnly": TestReadOnly, "Search": TestSearch, "StoreOfWhatIsSet": TestStoreOfWhatIsSet, "StoreTellsWhatOthersDid": TestStoreTellsWhatOthersDid,
		"Defect01": TestDefect01_RefusedLiteralIsNotRun, "Defect02": TestDefect02_MultipartWithoutParts, "Defect04": TestDefect04_NestedMessages,
		"Defect05": TestDefect05_HugePartial, "Defect06": TestDefect06_Ampersand, "Defect07": TestDefect07_DoneInLowerCase,
		"Defect08": TestDefect08_ManyNewMessages, "Defect09": TestDefect09_EveryStatusItem,
		"I03": TestI03_ManyLiterals, "I04": TestI04_LongLine, "I05": TestI05_Nesting, "I06": TestI06_MalformedLiterals, "I07": TestI07_MessageTooBig,
		"I08": TestI08_EmptyMessage, "I09": TestI09_MessageThatDoesNotArrive, "I11": TestI11_WrongTimeForTLSAndLogin, "I12": TestI12_CompressIsNotOffered,
		"I13": TestI13_BadCommands, "I14": TestI14_FailedLoginsReadTheSame, "I15": TestI15_Sets, "I16": TestI16_FetchWhatIsNotThere, "I17": TestI17_Idle,
		"I19": TestI19_ManySessionsOfOneUser, "I20": TestI20_ManyWildcards, "I22": TestI22_Names, "I23": TestI23_CreateDeleteRename, "I24": TestI24_MissingAndFull,
		"I25": TestI25_Flags, "I26": TestI26_Sections, "I27": TestI27_CondstoreIsNotOffered, "I28": TestI28_QresyncIsNotOffered,
		"I29": TestI29_TwoSessionsSeeEachOther, "I29_Models": TestI29_ModelsNeverDiverge, "I30": TestI30_OtherUsers, "I31": TestI31_MailboxGoneWhileSelected,
		"I32": TestI32_ManyUsersAtOnce, "I33": TestI33_SeveralMessagesAreNotOffered, "I34": TestI34_EightBit, "I35": TestI35_IDEnableNamespace,
	} {
		t.Run(name, test)
	}
}
