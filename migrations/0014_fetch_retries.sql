-- Spans that the answers of a provider did not prove, and when they are asked for again: later after each try in vain. One
-- row gathers what a series has of one number of tries and of ten minutes. What was covered since may still be in it.

create table fetch_retries (
  instrument_id int not null references instruments (id),
  timeframe     text not null,
  tries         int not null,
  retry_at      timestamptz not null,
  spans         tstzmultirange not null,
  primary key (instrument_id, timeframe, tries, retry_at)
);
