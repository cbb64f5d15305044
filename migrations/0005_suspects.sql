-- Spans that a provider vouched for as empty and that are asked for once more, for an outage looks just like this. One row
-- gathers what a series has of ten minutes; coverage stands meanwhile.

create table suspects (
  instrument_id int not null references instruments (id),
  timeframe     text not null,
  asked_at      timestamptz not null,
  spans         tstzmultirange not null,
  primary key (instrument_id, timeframe, asked_at)
);
