-- What aggregates, corrections and caches need, however the aggregates themselves are kept (see migrations/layouts).

-- Which relation answers for which timeframe. Read at start; the relations are kept up to date whether active or not.
create table preaggregation_configs (
  config_id        int generated always as identity primary key,
  view_name        text not null unique check (view_name ~ '^ohlcv_[a-z0-9]{1,16}$'),
  target_timeframe text not null,
  base_timeframe   text not null,
  bucket_interval  interval not null,
  is_active        boolean not null default true,
  description      text
);
insert into preaggregation_configs (view_name, target_timeframe, base_timeframe, bucket_interval, description) values
  ('ohlcv_5min', '5m', '1m', '5 minutes', 'Five minutes of 1-minute candles'),
  ('ohlcv_15min', '15m', '5m', '15 minutes', 'A quarter of an hour of 5-minute candles'),
  ('ohlcv_30min', '30m', '15m', '30 minutes', 'Half an hour of 15-minute candles'),
  ('ohlcv_1h', '1h', '30m', '1 hour', 'An hour of 30-minute candles'),
  ('ohlcv_4h', '4h', '1h', '4 hours', 'Four hours of hourly candles'),
  ('ohlcv_1d', '1d', '4h', '1 day', 'A day in UTC of 4-hour candles'),
  ('ohlcv_1w', '1w', '1d', '7 days', 'A week from Monday in UTC of daily candles'),
  ('ohlcv_1mon', '1mon', '1d', '1 month', 'A calendar month in UTC of daily candles'),
  ('ohlcv_1y', '1y', '1mon', '1 year', 'A calendar year in UTC of monthly candles');

-- How the aggregates of this database are kept, and its name among databases that share a cache.
create table storage_layout (
  only_one    boolean primary key default true check (only_one),
  kind        text not null check (kind in ('tables', 'continuous')),
  hypertable  boolean not null,
  horizon     timestamptz,  -- 1m candles before it are dropped, and not taken any more; their aggregates stay
  moved_at    timestamptz,  -- when it was last moved,
  dropped_at  timestamptz,  -- and when what lies before it was last dropped
  database_id uuid not null default gen_random_uuid(),
  made_at     timestamptz not null default now()
);

-- Goes up with each change of a candle that was final before: what is cached is cached under it.
alter table coverage add revision bigint not null default 0;

-- A final candle that changed: what it was (null: there was none) and what it became (null: there is none any more).
create table corrections (
  id            bigint generated always as identity primary key,
  instrument_id int not null references instruments (id),
  timeframe     text not null,
  "timestamp"   timestamptz not null,
  old_open float8, old_high float8, old_low float8, old_close float8, old_volume float8, old_source "char",
  new_open float8, new_high float8, new_low float8, new_close float8, new_volume float8, new_source "char",
  corrected_at  timestamptz not null default now()
);
create index on corrections (instrument_id, timeframe, corrected_at desc);

-- One row a transaction that changed what is known, for the caches and listeners of other processes. By the transaction's
-- number: of two that overlap, the one that began first may be seen last, and an identity column would hide it.
create table changes (
  xid            xid8 not null default pg_current_xact_id(),
  instrument_ids int[] not null,
  corrected      tstzrange[],  -- of each instrument, the hull of its corrected 1m candles; empty where there is none
  at             timestamptz not null default now()
);
create index on changes (xid);
create index on changes (at);

-- One lock of many writers and one claimant, to the end of the transaction: taken late in a write, so it is held briefly.
create function hold_aggregates(sinces timestamptz[]) returns void language plpgsql as $f$
begin
  perform pg_advisory_xact_lock_shared(hashtext('candlegraph aggregates'));
  if exists (select from storage_layout, unnest(sinces) s where s < horizon) then
    raise exception 'the horizon of 1m candles was moved meanwhile' using errcode = 'serialization_failure';
  end if;
end $f$;

create function claim_aggregates() returns void language sql as $f$
  select pg_advisory_xact_lock(hashtext('candlegraph aggregates'));
$f$;

create function minutes_drop(before timestamptz) returns void language sql as $f$
  delete from ohlcv_data d using instruments i where d.instrument_id = i.id and d.timeframe = '1m' and d."timestamp" < before;
$f$;
