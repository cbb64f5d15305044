-- Which of its provider's data the candles of a series come from, where these data may be replaced as a whole (a file): null
-- for every other provider. A read that finds another lineage replaces what is covered; see storage/revisions.py.
alter table coverage add source_lineage text, add source_state text;
