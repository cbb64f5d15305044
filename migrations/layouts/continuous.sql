-- Aggregates as continuous aggregates of TimescaleDB, each over the one below it. They lag: migrations/layouts/ledger.sql
-- knows where. Materialized only: in real-time mode a read without a lower bound sorts the whole series.

do $make$
declare
  level record;
begin
  for level in
    select c.view_name as name, coalesce(b.view_name, 'ohlcv_data') as base, c.bucket_interval as width,
           case when b.view_name is null then '"timestamp"' else 'bucketed_time' end as stamp,
           case when b.view_name is null then 'where x.timeframe = ''1m''' else '' end as only_minutes
    from preaggregation_configs c left join preaggregation_configs b on b.target_timeframe = c.base_timeframe order by c.config_id
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
