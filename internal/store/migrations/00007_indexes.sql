-- +goose Up
CREATE INDEX requests_incident ON requests (incident, deadline);
CREATE INDEX requests_deadline ON requests (deadline);
CREATE INDEX leases_incident ON leases (incident, ends);
CREATE INDEX leases_lifted ON leases (lifted, ends);
CREATE INDEX ledger_kind ON ledger (kind, seq);
CREATE INDEX sign_ins_expires ON sign_ins (expires);

-- +goose Down
DROP INDEX sign_ins_expires;
DROP INDEX ledger_kind;
DROP INDEX leases_lifted;
DROP INDEX leases_incident;
DROP INDEX requests_deadline;
DROP INDEX requests_incident;
