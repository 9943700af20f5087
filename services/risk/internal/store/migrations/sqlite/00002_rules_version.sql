-- +goose Up

-- The version of the rules that the verdict follows from; empty for payments that were assessed before it was kept.
ALTER TABLE assessments ADD COLUMN rules_version TEXT NOT NULL DEFAULT '';
