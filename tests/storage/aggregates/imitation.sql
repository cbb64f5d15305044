-- What TimescaleDB does for the ledger, imitated in plain PostgreSQL: nine relations that stay as they are until they are
-- refreshed, window by window, each in a transaction of its own, and only by one at a time.

do $make$
declare
  name text;
begin
  for name in select view_name from preaggregation_configs loop
    execute format($sql$
      create table %I (
        instrument_id int not null, bucketed_time timestamptz not null,
        open float8 not null, high float8 not null, low float8 not null, close float8 not null, volume float8 not null,
        primary key (instrument_id, bucketed_time))
      $sql$, name);
  end loop;
end $make$;

create procedure refresh_continuous_aggregate(name text, since timestamptz, until timestamptz, options jsonb default null)
language plpgsql as $f$
declare
  level record;
  stamp text;
  edge text;
begin
  if not pg_try_advisory_xact_lock(1, 1) then
    raise exception 'a refresh is under way' using errcode = 'lock_not_available';
  end if;
  select coalesce(b.view_name, 'ohlcv_data') as base,
         case c.bucket_interval when '1 month' then 'month' when '1 year' then 'year'
                                else extract(epoch from c.bucket_interval)::int || ' seconds' end as step
  into strict level
  from preaggregation_configs c left join preaggregation_configs b on b.target_timeframe = c.base_timeframe
  where c.view_name = refresh_continuous_aggregate.name;
  stamp := case level.base when 'ohlcv_data' then '"timestamp"' else 'bucketed_time' end;
  edge := case when level.step in ('month', 'year') then format('date_trunc(%L, $t, ''UTC'')', level.step)
               else format('date_bin(%L, $t, timestamptz ''2000-01-03 00:00+00'')', level.step) end;
  execute format('select %s <> $1 or %s <> $2', replace(edge, '$t', '$1'), replace(edge, '$t', '$2'))
    into strict level.step using since, until;
  if level.step::boolean then
    raise exception 'the window of % is not one of whole buckets: % %', name, since, until;
  end if;
  execute format('delete from %I where bucketed_time >= $1 and bucketed_time < $2', name) using since, until;
  execute format($sql$
    insert into %I
    select instrument_id, %s, (array_agg(open order by %3$s))[1], max(high), min(low), (array_agg(close order by %3$s desc))[1],
           sum(volume order by %3$s)
    from %4$I where %3$s >= $1 and %3$s < $2 %5$s group by 1, 2
    $sql$, name, replace(edge, '$t', stamp), stamp, level.base,
    case level.base when 'ohlcv_data' then 'and timeframe = ''1m''' else '' end) using since, until;
end $f$;
