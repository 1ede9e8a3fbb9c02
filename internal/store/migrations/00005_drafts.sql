-- +goose Up
CREATE TABLE draft_versions (
    incident TEXT NOT NULL, name TEXT NOT NULL, version BIGINT NOT NULL, human BIGINT NOT NULL, sha256 TEXT NOT NULL, doc TEXT NOT NULL,
    PRIMARY KEY (incident, name, version)
);
INSERT INTO draft_versions (incident, name, version, human, sha256, doc) SELECT incident, name, 1, 0, '', doc FROM drafts;
DROP TABLE drafts;

-- +goose Down
CREATE TABLE drafts (
    incident TEXT NOT NULL, name TEXT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (incident, name)
);
INSERT INTO drafts (incident, name, doc) SELECT incident, name, doc FROM draft_versions d
    WHERE version = (SELECT MAX(version) FROM draft_versions v WHERE v.incident = d.incident AND v.name = d.name);
DROP TABLE draft_versions;
