-- +goose Up
CREATE TABLE inbox (
    id TEXT PRIMARY KEY, at BIGINT NOT NULL, done BIGINT NOT NULL DEFAULT 0, doc TEXT NOT NULL
);
CREATE INDEX inbox_waiting ON inbox (at) WHERE done = 0;
CREATE INDEX inbox_done ON inbox (done) WHERE done <> 0;
CREATE TABLE cards (
    incident TEXT PRIMARY KEY, channel TEXT NOT NULL, ts TEXT NOT NULL, shown BIGINT NOT NULL, doc TEXT NOT NULL
);
CREATE INDEX cards_shown ON cards (shown, ts);

-- +goose Down
DROP TABLE cards;
DROP TABLE inbox;
