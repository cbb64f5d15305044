-- What lost its coverage, so that a client that keeps a copy can be asked to fetch it again, and how to find what changed of one series.
alter table coverage_withdrawals add lost tstzmultirange not null default '{}';
create index on coverage_withdrawals (instrument_id, timeframe, id);
drop index if exists coverage_withdrawals_instrument_id_idx;
create index on corrections (instrument_id, timeframe, id);
