package storage

// schemaVersion is kept in the database's user_version, applicationID in its
// application_id ("Covy").
const (
	schemaVersion = 3
	applicationID = 0x436f7679
)

// installedTable has one row if the database came from another node: what Install
// was given.
const installedTable = `CREATE TABLE installed (one INTEGER PRIMARY KEY CHECK (one = 1), meta BLOB) STRICT`

// queueTables are what version 3 added.
func queueTables() []string {
	return []string{
		`CREATE TABLE queue (entry INTEGER PRIMARY KEY, body INTEGER, delivery BLOB) STRICT`,
		`CREATE TABLE heard (first INTEGER PRIMARY KEY, until INTEGER, places BLOB) STRICT`,
	}
}

// schema makes the tables of a shard. What a small message costs on disk is
// mostly the pages that are touched at random, so what comes with a message is
// kept in the order of arrival (message, body, summary, resident), and what is
// kept by mailbox is narrow (count, message_uid).
//
// Lists are written as internal/wire has them: hidden and keywords as strings,
// extents as segment, offset, length and checksum of each.
//
// resident, segment, installed and the extents are the node's own; all else is
// the same on every replica at the same applied index.
//
// Version 1 had no installed, version 2 no queue and no heard; Open adds them.
func schema() []string {
	return append(queueTables(),
		`CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), shard INTEGER, applied INTEGER, hash INTEGER,`+
			` clock INTEGER, last_mailbox INTEGER) STRICT`,
		`CREATE TABLE account (id INTEGER PRIMARY KEY, validity INTEGER, hidden BLOB) STRICT`,
		`CREATE TABLE mailbox (id INTEGER PRIMARY KEY, account INTEGER, name TEXT, use INTEGER, no_select INTEGER,`+
			` validity INTEGER) STRICT`,
		`CREATE UNIQUE INDEX mailbox_name ON mailbox (account, name)`,
		`CREATE TABLE count (mailbox INTEGER PRIMARY KEY, uid_next INTEGER, mod_seq INTEGER, messages INTEGER,`+
			` unseen INTEGER, deleted INTEGER, bytes INTEGER, keywords BLOB, runs INTEGER, horizon INTEGER) STRICT`,
		`CREATE TABLE subscription (account INTEGER, name TEXT, PRIMARY KEY (account, name)) STRICT, WITHOUT ROWID`,
		`CREATE TABLE message (arrival INTEGER PRIMARY KEY, mailbox INTEGER, uid INTEGER, mod_seq INTEGER,`+
			` system INTEGER, keywords BLOB, date INTEGER, size INTEGER, prefix BLOB, body INTEGER) STRICT`,
		`CREATE INDEX message_uid ON message (mailbox, uid, system)`,
		`CREATE TABLE expunged (mailbox INTEGER, mod_seq INTEGER, first INTEGER, last INTEGER,`+
			` PRIMARY KEY (mailbox, mod_seq, first)) STRICT, WITHOUT ROWID`,
		`CREATE TABLE body (id INTEGER PRIMARY KEY, refs INTEGER, size INTEGER, extents BLOB) STRICT`,
		`CREATE TABLE summary (body INTEGER PRIMARY KEY, summary BLOB) STRICT`,
		`CREATE TABLE resident (segment INTEGER, body INTEGER, PRIMARY KEY (segment, body)) STRICT, WITHOUT ROWID`,
		`CREATE TABLE segment (number INTEGER PRIMARY KEY, bytes INTEGER, extents INTEGER) STRICT`,
		`CREATE TABLE chunk (node INTEGER, boot INTEGER, seq INTEGER, n INTEGER, time INTEGER, extent BLOB,`+
			` PRIMARY KEY (node, boot, seq, n)) STRICT, WITHOUT ROWID`,
		`CREATE TABLE delivered (entry INTEGER PRIMARY KEY, delivery BLOB) STRICT`,
		installedTable,
	)
}
