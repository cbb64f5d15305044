-- Aggregates in plain tables: recomputed, level by level, in the transaction that writes the candles. Never stale.

do $make$
declare
  level record;
  levels text[] := '{}';  -- each with the relation it is made of
  edge text;  -- the opening of the bucket that holds $t
  after text;  -- the opening of the first bucket that begins no earlier than $t
begin
  for level in
    select c.view_name as name, coalesce(b.view_name, 'ohlcv_data') as base,
           case c.bucket_interval when '1 month' then 'month' when '1 year' then 'year' end as unit,
           extract(epoch from c.bucket_interval)::int || ' seconds' as width,  -- no days: a session's zone makes 23 hours of some
           case when b.view_name is null then '"timestamp"' else 'bucketed_time' end as stamp,
           case when b.view_name is null then 'and x.timeframe = ''1m''' else '' end as only_minutes
    from preaggregation_configs c left join preaggregation_configs b on b.target_timeframe = c.base_timeframe order by c.config_id
  loop
    execute format($sql$
      create table %I (
        instrument_id int not null,
        bucketed_time timestamptz not null,
        open float8 not null, high float8 not null, low float8 not null, close float8 not null, volume float8 not null,
        primary key (instrument_id, bucketed_time))
      $sql$, level.name);

    -- In UTC, whatever the session's zone; `date_bin` and this origin are the grid of Timeframe.
    if level.unit is not null then
      edge := format('date_trunc(%L, $t, ''UTC'')', level.unit);
      after := format('date_trunc(%1$L, date_trunc(%1$L, $t - interval ''1 us'', ''UTC'') + interval %2$L, ''UTC'')',
                      level.unit, case level.unit when 'month' then '768 hours' else '8808 hours' end);
    else
      edge := format('date_bin(%L, $t, timestamptz ''2000-01-03 00:00+00'')', level.width);
      after := format('date_bin(%1$L, $t - interval ''1 us'', timestamptz ''2000-01-03 00:00+00'') + interval %1$L', level.width);
    end if;

    -- A sequential scan is never right here, and a plan made while the table was small must not stay one. First and last are
    -- of an ordered array_agg; the sum is ordered too, or the last digit of a volume would depend on the plan.
    execute format($sql$
      create function refresh_%1$s(ids int[], since timestamptz, until timestamptz, emptied boolean) returns void
      language plpgsql set enable_seqscan = off as $f$
      begin
        if emptied then
          delete from %1$I a
          where a.instrument_id = any (ids) and a.bucketed_time >= %2$s and a.bucketed_time < until
            and not exists (select from %4$I x where x.instrument_id = a.instrument_id and x.%5$s >= a.bucketed_time
                            and x.%5$s < %6$s %7$s);
        end if;
        insert into %1$I as a (instrument_id, bucketed_time, open, high, low, close, volume)
        select i, bucket, o[1], h, l, c[cardinality(c)], v from (
          select x.instrument_id i, %8$s bucket, array_agg(x.open order by x.%5$s) o, max(x.high) h, min(x.low) l,
                 array_agg(x.close order by x.%5$s) c, sum(x.volume order by x.%5$s) v
          from %4$I x
          where x.instrument_id = any (ids) and x.%5$s >= %2$s and x.%5$s < %3$s %7$s
          group by 1, 2) folded
        on conflict (instrument_id, bucketed_time) do update
        set open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume
        where (a.open, a.high, a.low, a.close, a.volume)
              is distinct from (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume);
      end $f$
      $sql$,
      level.name, replace(edge, '$t', 'since'), replace(after, '$t', 'until'), level.base, level.stamp,
      replace(after, '$t', '(a.bucketed_time + interval ''1 ms'')'), level.only_minutes,
      replace(edge, '$t', 'x.' || level.stamp));
    levels := levels || array[[level.name, level.base]];
  end loop;

  -- The levels stand in its text: whoever edits `preaggregation_configs` chooses what is read, not what is kept up to date.
  execute format($sql$
    create function update_aggregates(ids int[], sinces timestamptz[], untils timestamptz[], emptied boolean) returns void
    language plpgsql as $f$
    -- Recompute the buckets over spans of written 1m candles; `emptied`: some were deleted. The caller holds the rows of
    -- `coverage` of these instruments: without that, two writers leave wrong buckets behind.
    declare
      span record;
      level text[];
    begin
      perform lock_aggregates_shared(sinces);
      for span in select s, u, array_agg(distinct i) as instruments from unnest(ids, sinces, untils) x (i, s, u) group by 1, 2 loop
        foreach level slice 1 in array %L::text[] loop
          -- A relation that somebody dropped is done without, and so is what is made of it: no reader uses either.
          if to_regclass(level[1]) is not null and to_regclass(level[2]) is not null then
            execute format('select refresh_%%s($1, $2, $3, $4)', level[1]) using span.instruments, span.s, span.u, emptied;
          end if;
        end loop;
      end loop;
    end $f$
    $sql$, levels);
end $make$;

-- Candles that were there before their aggregates were.
select update_aggregates(array_agg(instrument_id), array_agg(first), array_agg(last), false)
from (select instrument_id, min("timestamp") as first, max("timestamp") + interval '1 minute' as last
      from ohlcv_data where timeframe = '1m' group by 1) d
having count(*) > 0;
