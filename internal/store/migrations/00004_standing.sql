-- +goose Up
CREATE TABLE standing (
    id TEXT PRIMARY KEY, until BIGINT NOT NULL, doc TEXT NOT NULL
);
CREATE TABLE standing_uses (
    request TEXT PRIMARY KEY, standing TEXT NOT NULL, at BIGINT NOT NULL
);
CREATE INDEX standing_uses_at ON standing_uses (standing, at);
CREATE TABLE halts (
    id BIGINT PRIMARY KEY, doc TEXT NOT NULL
);

-- +goose Down
DROP TABLE halts;
DROP TABLE standing_uses;
DROP TABLE standing;
