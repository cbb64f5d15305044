-- Where continuous aggregates are behind the candles. An aggregate is right except within the spans of `agg_dirty` and from
-- `done` on, each widened to its own buckets: a reader takes those from below.

create table agg_dirty (
  id            bigint generated always as identity primary key,
  instrument_id int not null,
  span          tstzrange not null
);
create index on agg_dirty (instrument_id);

-- Writers leave a row in `agg_dirty` for what they write before `claimed`; the refresher has brought all before `done` up to
-- date. Between the two a refresh is under way, or was broken off.
create table agg_state (
  only_one boolean primary key default true check (only_one),
  claimed  timestamptz not null,
  done     timestamptz not null
);
insert into agg_state (claimed, done)
select first, first from (select coalesce(min("timestamp"), now()) as first from ohlcv_data where timeframe = '1m') d;

create function aggregates_written(ids int[], sinces timestamptz[], untils timestamptz[], emptied boolean) returns void
language plpgsql as $f$
-- Note the hours over spans of written 1m candles; the live tail leaves nothing. Its lock is shared among writers and kept
-- to the end of the transaction: who claims waits until what was written before is there to be read.
begin
  perform hold_aggregates(sinces);
  insert into agg_dirty (instrument_id, span)
  select i, tstzrange(date_bin('1 hour', s, timestamptz '2000-01-03 00:00+00'),
                      date_bin('1 hour', u - interval '1 us', timestamptz '2000-01-03 00:00+00') + interval '1 hour')
  from unnest(ids, sinces, untils) x (i, s, u) join agg_state on s < claimed;
end $f$;

create function aggregates_claim(upto timestamptz) returns timestamptz
language plpgsql as $f$
-- From here on, writers note what they write before `upto`. In a transaction of its own.
declare
  reached timestamptz;
begin
  perform claim_aggregates();
  update agg_state set claimed = greatest(claimed, upto) returning claimed into reached;
  return reached;
end $f$;
