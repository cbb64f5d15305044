-- Aggregates in plain tables: recomputed, level by level, in the transaction that writes the candles. Never stale.

do $make$
declare
  level record;
  edge text;  -- the opening of the bucket that holds $t
  after text;  -- the opening of the first bucket that begins no earlier than $t
begin
  for level in
    select name, base, step, case base when 'ohlcv_data' then '"timestamp"' else 'bucketed_time' end as stamp,
           case base when 'ohlcv_data' then 'and x.timeframe = ''1m''' else '' end as only_minutes
    from (values
      ('ohlcv_5min', 'ohlcv_data', '5 minutes'), ('ohlcv_15min', 'ohlcv_5min', '15 minutes'),
      ('ohlcv_30min', 'ohlcv_15min', '30 minutes'), ('ohlcv_1h', 'ohlcv_30min', '1 hour'), ('ohlcv_4h', 'ohlcv_1h', '4 hours'),
      ('ohlcv_1d', 'ohlcv_4h', '24 hours'), ('ohlcv_1w', 'ohlcv_1d', '168 hours'),
      ('ohlcv_1mon', 'ohlcv_1d', 'month'), ('ohlcv_1y', 'ohlcv_1mon', 'year')) l (name, base, step)
  loop
    execute format($sql$
      create table %I (
        instrument_id int not null,
        bucketed_time timestamptz not null,
        open float8 not null, high float8 not null, low float8 not null, close float8 not null, volume float8 not null,
        primary key (instrument_id, bucketed_time))
      $sql$, level.name);

    -- In UTC, whatever the session's zone; `date_bin` and this origin are the grid of Timeframe.
    if level.step in ('month', 'year') then
      edge := format('date_trunc(%L, $t, ''UTC'')', level.step);
      after := format('date_trunc(%1$L, date_trunc(%1$L, $t - interval ''1 us'', ''UTC'') + interval %2$L, ''UTC'')',
                      level.step, case level.step when 'month' then '768 hours' else '8808 hours' end);
    else
      edge := format('date_bin(%L, $t, timestamptz ''2000-01-03 00:00+00'')', level.step);
      after := format('date_bin(%1$L, $t - interval ''1 us'', timestamptz ''2000-01-03 00:00+00'') + interval %1$L', level.step);
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
  end loop;
end $make$;

create function aggregates_written(ids int[], sinces timestamptz[], untils timestamptz[], emptied boolean) returns void
language plpgsql as $f$
-- Recompute the buckets over spans of written 1m candles; `emptied`: some were deleted. Whoever calls holds the rows of
-- `coverage` of these instruments: without that, two writers leave wrong buckets behind.
declare
  span record;
  level text[];
begin
  perform hold_aggregates(sinces);
  for span in select s, u, array_agg(distinct i) as instruments from unnest(ids, sinces, untils) x (i, s, u) group by 1, 2 loop
    foreach level slice 1 in array array[
      ['ohlcv_5min', 'ohlcv_data'], ['ohlcv_15min', 'ohlcv_5min'], ['ohlcv_30min', 'ohlcv_15min'], ['ohlcv_1h', 'ohlcv_30min'],
      ['ohlcv_4h', 'ohlcv_1h'], ['ohlcv_1d', 'ohlcv_4h'], ['ohlcv_1w', 'ohlcv_1d'], ['ohlcv_1mon', 'ohlcv_1d'],
      ['ohlcv_1y', 'ohlcv_1mon']]
    loop
      -- A relation that somebody dropped is done without, and so is what is made of it: no reader uses either.
      if to_regclass(level[1]) is not null and to_regclass(level[2]) is not null then
        execute format('select refresh_%s($1, $2, $3, $4)', level[1]) using span.instruments, span.s, span.u, emptied;
      end if;
    end loop;
  end loop;
end $f$;

-- Candles that were there before their aggregates were.
select aggregates_written(array_agg(instrument_id), array_agg(first), array_agg(last), false)
from (select instrument_id, min("timestamp") as first, max("timestamp") + interval '1 minute' as last
      from ohlcv_data where timeframe = '1m' group by 1) d
having count(*) > 0;
