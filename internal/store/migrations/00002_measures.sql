-- +goose Up
ALTER TABLE findings ADD COLUMN triaged BIGINT NOT NULL DEFAULT 0;
UPDATE findings SET triaged = 1 WHERE doc LIKE '%"disposition":{%';
ALTER TABLE timeline ADD COLUMN looked BIGINT NOT NULL DEFAULT 0;
UPDATE timeline SET looked = 1 WHERE doc NOT LIKE '%"actor":"tocsin"%'
    AND (doc LIKE '%"source":"console"%' OR doc LIKE '%"source":"cli"%' OR doc LIKE '%"source":"slack"%')
    AND (doc LIKE '%"kind":"notice"%' OR doc LIKE '%"kind":"note"%' OR doc LIKE '%"kind":"decision"%');
CREATE INDEX timeline_looked ON timeline (incident, at) WHERE looked = 1;

-- +goose Down
DROP INDEX timeline_looked;
ALTER TABLE timeline DROP COLUMN looked;
ALTER TABLE findings DROP COLUMN triaged;
