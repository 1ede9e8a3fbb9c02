-- +goose Up
CREATE TABLE findings (
    id TEXT PRIMARY KEY, incident TEXT NOT NULL, at BIGINT NOT NULL, raised BIGINT NOT NULL,
    agent TEXT NOT NULL, rule TEXT NOT NULL, lane TEXT NOT NULL, doc TEXT NOT NULL
);
CREATE INDEX findings_incident ON findings (incident, at);
CREATE INDEX findings_at ON findings (at);
CREATE TABLE incidents (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, agent TEXT NOT NULL, first_bad BIGINT NOT NULL, doc TEXT NOT NULL
);
CREATE INDEX incidents_first_bad ON incidents (first_bad);
CREATE TABLE timeline (
    incident TEXT NOT NULL, id TEXT NOT NULL, at BIGINT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (incident, id)
);
CREATE TABLE requests (
    id TEXT PRIMARY KEY, incident TEXT NOT NULL, state TEXT NOT NULL, deadline BIGINT NOT NULL, doc TEXT NOT NULL
);
CREATE INDEX requests_state ON requests (state, deadline);
CREATE TABLE evidence (
    incident TEXT NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (incident, sha256, name)
);
CREATE TABLE tracks (
    incident TEXT NOT NULL, name TEXT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (incident, name)
);
CREATE TABLE drafts (
    incident TEXT NOT NULL, name TEXT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (incident, name)
);
CREATE TABLE leases (
    id TEXT PRIMARY KEY, incident TEXT NOT NULL, ends BIGINT NOT NULL, lifted BIGINT NOT NULL, doc TEXT NOT NULL
);
CREATE TABLE ledger (
    seq BIGINT PRIMARY KEY, key TEXT UNIQUE, kind TEXT NOT NULL, subject TEXT NOT NULL, hash TEXT NOT NULL, doc TEXT NOT NULL
);
CREATE INDEX ledger_subject ON ledger (subject, seq);
CREATE TABLE sign_ins (
    token TEXT PRIMARY KEY, expires BIGINT NOT NULL, doc TEXT NOT NULL
);

-- +goose Down
DROP TABLE sign_ins;
DROP TABLE ledger;
DROP TABLE leases;
DROP TABLE drafts;
DROP TABLE tracks;
DROP TABLE evidence;
DROP TABLE requests;
DROP TABLE timeline;
DROP TABLE incidents;
DROP TABLE findings;
