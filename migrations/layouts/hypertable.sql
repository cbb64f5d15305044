-- The candles as a hypertable of TimescaleDB. Rows that are there move into its chunks.

create extension if not exists timescaledb;

-- Four weeks: every read has its instrument and its bounds, so a chunk need not be small to be searched quickly, but each
-- chunk costs planning: ten years are 130 of them. 500 instruments fill one with 20 million rows, 0.8 GB of index.
-- No index by time alone: nothing asks for one, and it would slow each load down.
select create_hypertable('ohlcv_data', by_range('timestamp', interval '28 days'), create_default_indexes => false,
                         migrate_data => true);

do $make$
begin
  -- The Apache edition has neither compression nor continuous aggregates.
  if current_setting('timescaledb.license') <> 'timescale' then
    return;
  end if;
  alter table ohlcv_data set (timescaledb.compress, timescaledb.compress_segmentby = 'instrument_id, timeframe',
                              timescaledb.compress_orderby = '"timestamp"');
  -- Some versions make a policy of their own when compression is switched on: theirs stays then.
  perform add_compression_policy('ohlcv_data', interval '35 days', if_not_exists => true);
end $make$;

create or replace function minutes_drop(before timestamptz) returns void language plpgsql as $f$
-- By whole chunks, so that nothing is left to vacuum. What else lies in them are native candles: few, and they stay.
begin
  if not exists (select from show_chunks('ohlcv_data', older_than => before)) then
    return;
  end if;
  create temp table native on commit drop as select * from ohlcv_data where timeframe <> '1m' and "timestamp" < before;
  perform drop_chunks('ohlcv_data', older_than => before);
  insert into ohlcv_data select * from native on conflict do nothing;
end $f$;
