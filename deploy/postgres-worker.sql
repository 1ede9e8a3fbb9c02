-- The rights of a worker (tocsin worker) in the store of a Tocsin, for its owner to run once in that database, after tocsin run made the
-- tables. A worker reads and writes leases, and appends to the ledger and to timelines. It sees no finding, request, evidence or
-- sign-in, and changes no record.
CREATE ROLE tocsin_worker LOGIN;  -- give it a password: \password tocsin_worker
GRANT SELECT ON goose_db_version, halts, draft_versions, ledger, timeline, leases TO tocsin_worker;
GRANT INSERT ON ledger, timeline, leases TO tocsin_worker;
GRANT UPDATE ON leases TO tocsin_worker;
