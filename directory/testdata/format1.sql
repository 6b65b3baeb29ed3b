-- A directory.db of format 1: the tables as SQLite kept them, and what some commands made.
CREATE TABLE meta (
	id INTEGER PRIMARY KEY CHECK (id = 1),
	applied INTEGER NOT NULL,       -- index of the last command in this database
	cluster BLOB NOT NULL,          -- 16 octets
	shards INTEGER NOT NULL,        -- 0: not founded
	next_account INTEGER NOT NULL,
	next_domain INTEGER NOT NULL,
	accounts INTEGER NOT NULL,
	unverified INTEGER NOT NULL,    -- accounts with a hash and no SCRAM verifier
	quota INTEGER NOT NULL,
	postmaster_local TEXT NOT NULL,
	postmaster_domain TEXT NOT NULL
);
CREATE TABLE domain (
	id INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE,
	created INTEGER NOT NULL,
	accounts INTEGER NOT NULL,
	aliases INTEGER NOT NULL
);
CREATE TABLE account (
	id INTEGER PRIMARY KEY,
	domain INTEGER NOT NULL,
	local TEXT NOT NULL,
	shard INTEGER NOT NULL,
	hash TEXT NOT NULL,
	verifier TEXT NOT NULL,
	quota INTEGER NOT NULL,
	disabled INTEGER NOT NULL,
	created INTEGER NOT NULL
);
CREATE UNIQUE INDEX account_address ON account (domain, local);
CREATE INDEX account_domain ON account (domain);
CREATE TABLE alias (
	domain INTEGER NOT NULL,
	local TEXT NOT NULL,            -- empty: catch-all
	position INTEGER NOT NULL,
	target_local TEXT NOT NULL,
	target_domain TEXT NOT NULL,
	PRIMARY KEY (domain, local, position)
) WITHOUT ROWID;
CREATE TABLE removed (
	account INTEGER PRIMARY KEY,
	shard INTEGER NOT NULL,
	local TEXT NOT NULL,
	domain TEXT NOT NULL,
	time INTEGER NOT NULL
);
INSERT INTO meta VALUES (1, 120, x'01000000000000000000000000000000', 3, 11, 3, 7, 1, 22, 'user6', 'a.example');
INSERT INTO domain VALUES (1, 'a.example', 1700000000, 2, 1);
INSERT INTO domain VALUES (2, 'b.example', 1700000000, 5, 0);
INSERT INTO account VALUES (2, 2, 'user1', 2, '{SSHA.B64}UZoVFjlUuqMXb9iB5g3PCRwAwmPuK4Ii', 'v', 0, 0, 1700000000);
INSERT INTO account VALUES (3, 1, 'user6', 3, '{SSHA.B64}UZoVFjlUuqMXb9iB5g3PCRwAwmPuK4Ii', 'v', 0, 0, 1700000000);
INSERT INTO account VALUES (4, 2, 'user7', 1, '', '', 4, 0, 1700000000);
INSERT INTO account VALUES (6, 2, 'user13', 3, '{SSHA.B64}UZoVFjlUuqMXb9iB5g3PCRwAwmPuK4Ii', 'v', 10, 0, 1700000000);
INSERT INTO account VALUES (7, 1, 'user18', 1, '{SSHA}TUAWaBXvNE7O36NutGSJo/XIE0HMC7+c', '', 0, 0, 1700000000);
INSERT INTO account VALUES (8, 2, 'user19', 2, '', '', 16, 0, 1700000000);
INSERT INTO account VALUES (10, 2, 'user25', 1, '', '', 22, 0, 1700000000);
INSERT INTO alias VALUES (1, 'info', 0, 'user6', 'a.example');
INSERT INTO alias VALUES (1, 'info', 1, 'user7', 'b.example');
INSERT INTO removed VALUES (1, 1, 'user0', 'a.example', 1700000000);
INSERT INTO removed VALUES (5, 2, 'user12', 'a.example', 1700000000);
INSERT INTO removed VALUES (9, 3, 'user24', 'a.example', 1700000000);
PRAGMA user_version = 1;
