-- +goose Up
CREATE TABLE security_keys (
    id TEXT PRIMARY KEY, person TEXT NOT NULL, sign_count BIGINT NOT NULL, doc TEXT NOT NULL
);
CREATE INDEX security_keys_person ON security_keys (person);
CREATE TABLE reviews (
    request TEXT PRIMARY KEY, doc TEXT NOT NULL
);

-- +goose Down
DROP TABLE reviews;
DROP TABLE security_keys;
