-- Aggregates as continuous aggregates of TimescaleDB, each over the one below it. They lag: migrations/layouts/ledger.sql
-- knows where. Materialized only: in real-time mode a read without a lower bound sorts the whole series.

do $make$
declare
  level record;
begin
  for level in
    select name, base, width, case base when 'ohlcv_data' then '"timestamp"' else 'bucketed_time' end as stamp,
           case base when 'ohlcv_data' then 'where x.timeframe = ''1m''' else '' end as only_minutes
    from (values
      ('ohlcv_5min', 'ohlcv_data', '5 minutes'), ('ohlcv_15min', 'ohlcv_5min', '15 minutes'),
      ('ohlcv_30min', 'ohlcv_15min', '30 minutes'), ('ohlcv_1h', 'ohlcv_30min', '1 hour'), ('ohlcv_4h', 'ohlcv_1h', '4 hours'),
      ('ohlcv_1d', 'ohlcv_4h', '1 day'), ('ohlcv_1w', 'ohlcv_1d', '7 days'),
      ('ohlcv_1mon', 'ohlcv_1d', '1 month'), ('ohlcv_1y', 'ohlcv_1mon', '1 year')) l (name, base, width)
  loop
    -- `time_bucket` needs no origin: its own, 2000-01-03 for widths and 2000-01-01 for months, are those of Timeframe.
    execute format($sql$
      create materialized view %1$I with (timescaledb.continuous, timescaledb.materialized_only = true) as
      select instrument_id, time_bucket(interval %2$L, x.%3$s) as bucketed_time, first(x.open, x.%3$s) as open,
             max(x.high) as high, min(x.low) as low, last(x.close, x.%3$s) as close, sum(x.volume) as volume
      from %4$I x %5$s group by 1, 2 with no data
      $sql$, level.name, level.width, level.stamp, level.base, level.only_minutes);
  end loop;
end $make$;
