-- The statements of the aggregates, by name. Only the layout `continuous` uses those on staleness and refreshing. Times as in
-- storage/queries.sql.

-- name: columns_of_staleness
-- Columns that show where a continuous aggregate is stale. They belong to the statement that reads its rows, to see the same
-- snapshot.
, (select range_agg(d.span) from agg_dirty d where d.instrument_id = q.i) as dirty, (select done from agg_state) as done;

-- name: staleness
-- Returns where aggregates are stale, and the first and last covered instant.
select q.i as instrument_id, s.done, (select range_agg(d.span) from agg_dirty d where d.instrument_id = q.i) as dirty,
       lower(c.covered) as first, upper(c.covered) as last
from agg_state s cross join unnest($1::int4[]) q (i)
left join coverage c on c.instrument_id = q.i and c.timeframe = '1m';

-- name: refresh_due
select exists (select from agg_dirty) or done < ms($1) as due from agg_state;

-- name: refresh_claim
select begin_refresh(ms($1));

-- name: refresh_work
-- Returns what to refresh, the oldest entries first, and the horizon: a refresh before it would erase the aggregates.
with seen as (select id, span from agg_dirty order by id limit $1)
select s.done, s.claimed, (select horizon from storage_layout) as horizon,
       (select coalesce(array_agg(id), '{}') from seen) as ids, (select range_agg(span) from seen) as dirty
from agg_state s;

-- name: refresh_level
-- Refreshes in one batch if this version of TimescaleDB can: ten batches for one month took thirty times as long. TimescaleDB
-- refreshes only the buckets that its own log calls invalid; `force` makes it refresh the whole window.
call refresh_continuous_aggregate('{relation}', $1::timestamptz, $2::timestamptz{parameters});

-- name: refresh_parameters
-- Returns the parameters that this version of TimescaleDB has: `force` came with 2.18, `options` later.
select array(select unnest(proargnames) from pg_proc where proname = 'refresh_continuous_aggregate') as known;

-- name: refresh_done
with gone as (delete from agg_dirty where id = any ($1::int8[]))
update agg_state set done = greatest(done, $2::timestamptz);

-- name: horizon_blocked
-- Returns whether aggregates before the new horizon $1 still have to be refreshed.
select done < ms($1) or exists (select from agg_dirty where lower(span) < ms($1)) as blocked from agg_state;

-- name: minutes_drop
with dropped as (select minutes_drop(horizon) from storage_layout)
update storage_layout set dropped_at = now() from dropped;

-- name: horizon_move
-- Runs under the exclusive lock, so no write is under way. Publishes a change of every instrument, because each process caches
-- the horizon.
with moved as (
  update storage_layout set horizon = ms($1), moved_at = now()
  where horizon is null or horizon < ms($1) returning only_one)
insert into changes (instrument_ids, corrected)
select array_agg(id), array_agg('empty'::tstzrange) from instruments, moved having count(*) > 0;

-- name: instruments_matching
-- Returns the instruments with stored data; a listed symbol without any has nothing to verify.
select id, market, provider, symbol from instruments i
where (exists (select from coverage c where c.instrument_id = i.id) or exists (select from ohlcv_data d where d.instrument_id = i.id))
  and ($1::text is null or market = $1) and ($2::text is null or provider = $2) and ($3::text is null or symbol like $3)
order by market, provider, symbol;

-- name: stored_hull
select (extract(epoch from min({stamp})) * 1000)::int8 as first, (extract(epoch from max({stamp})) * 1000)::int8 as last
from {relation}, (select $2::text as tf) q where instrument_id = $1 {filter};

-- name: base_faults
-- Counts the minutes that are not covered, and those that are not on a whole minute.
select count(*) as checked, count(*) filter (where c.covered @> d."timestamp" is not true) as uncovered,
       count(*) filter (where date_bin('1 minute', d."timestamp", timestamptz 'epoch') <> d."timestamp") as off_grid
from ohlcv_data d left join coverage c using (instrument_id, timeframe)
where d.instrument_id = $1 and d.timeframe = '1m'
  and d."timestamp" >= ms($2) and d."timestamp" < ms($3);

-- name: aggregate_differences
-- Compares each stored bucket with the fold of its minutes. Volumes may differ by rounding, because a sum of floats depends on
-- their order.
with expected as (
  select {edge} as bucketed_time, array_agg(open order by "timestamp") as opens, max(high) as high, min(low) as low,
         array_agg(close order by "timestamp") as closes, sum(volume) as volume
  from ohlcv_data
  where instrument_id = $1 and timeframe = '1m'
    and "timestamp" >= ms($2) and "timestamp" < ms($3)
  group by 1),
stored as (
  select * from {relation}
  where instrument_id = $1 and bucketed_time >= ms($2) and bucketed_time < ms($3)),
compared as (
  select bucketed_time, s.instrument_id is null as missing, e.opens is null as extra,
         (s.open, s.high, s.low, s.close) is distinct from (e.opens[1], e.high, e.low, e.closes[cardinality(e.closes)])
         or not abs(s.volume - e.volume) <= 1e-9 * abs(e.volume) as different
  from expected e full join stored s using (bucketed_time))
select count(*) as checked, count(*) filter (where missing) as missing, count(*) filter (where extra) as extra,
       count(*) filter (where different and not missing and not extra) as different,
       array_agg((extract(epoch from bucketed_time) * 1000)::int8) filter (where missing or extra or different) as wrong
from compared;

-- name: aggregate_orphans
-- Counts the ids in an aggregate that no instrument has. It probes the index once per id; `distinct` would read the whole
-- relation.
with recursive seen (id) as (
  select min(instrument_id) from {relation}
  union all
  select (select min(r.instrument_id) from {relation} r where r.instrument_id > seen.id) from seen where seen.id is not null)
select count(*) as orphans from seen where id is not null and not exists (select from instruments i where i.id = seen.id);

-- name: latest_named
-- Selects symbols of a provider by their names, in the order of $3. $4 and $5 are used by `latest_matching` only.
select i.*, q.k from unnest($3::text[]) with ordinality q (symbol, k)
join instruments i on i.market = $1 and i.provider = $2 and i.symbol = q.symbol and $4::text is null and $5::int4 is null

-- name: latest_matching
select i.*, row_number() over (order by i.symbol) as k from instruments i
where i.market = $1 and i.provider = $2 and i.active and i.symbol ~ $3 and ($4::text is null or i.symbol > $4)
order by i.symbol limit $5::int4

-- name: latest_rows
select {stamp} as at, open, high, low, close, volume from {relation}
where instrument_id = q.i {filter} order by {stamp} desc limit $8

-- name: latest_rows_of_lagging
-- The rows of an aggregate that may be behind, and from the first stale bucket on finer ones: hours, and minutes in the end.
(select bucketed_time as at, open, high, low, close, volume from {relation}
 where instrument_id = q.i and q.tf is not null and bucketed_time < stale.bucket order by bucketed_time desc limit $8)
union all
select bucketed_time, open, high, low, close, volume from {hours}
where instrument_id = q.i and bucketed_time >= stale.bucket and bucketed_time < stale.hour
union all
select "timestamp", open, high, low, close, volume from ohlcv_data
where instrument_id = q.i and timeframe = '1m' and "timestamp" >= greatest(stale.bucket, stale.hour)

-- name: latest_stale
-- The first stale bucket of a symbol, and the first stale hour: of the last day before its newest minute. A refresh is seldom
-- longer behind; and what was written late about an earlier day shows when it is refreshed.
cross join lateral (
  select {bucket} as bucket, {hour} as hour
  from (select greatest(least(s.done, min(lower(d.span))), upper(c.covered) - interval '1 day') as "timestamp"
        from agg_state s
        left join agg_dirty d on d.instrument_id = q.i and upper(d.span) > upper(c.covered) - interval '1 day'
        group by s.done) edge) stale

-- name: latest
-- The newest $8 rows of each symbol at the level $6 above 1m candles, the newest $9 that its provider made at the timeframe
-- $7, and what is covered from $10 ms before the oldest of them on; all packed. The first columns are an instrument's.
select w.id, w.symbol, w.name, w.base_currency, w.quote_currency, w.timezone, w.active, w.listed,
       (extract(epoch from w.first_available) * 1000)::int8, (extract(epoch from w.ended_at) * 1000)::int8,
       w.has_volume, w.kind, w.contract_size, w.price_increment, w.quantity_increment, w.calendar, w.native_days,
       m.rows, o.rows, known.covered, own.covered
from ({wanted}) w
left join coverage c on c.instrument_id = w.id and c.timeframe = '1m'
left join coverage n on n.instrument_id = w.id and n.timeframe = $7
cross join lateral (select w.id as i, $6::text as tf) q
{stale}
cross join lateral (
  select min(s.at) as first,
         string_agg(timestamptz_send(s.at) || float8send(s.open) || float8send(s.high) || float8send(s.low)
                    || float8send(s.close) || float8send(s.volume), ''::bytea order by s.at) as rows
  from ({rows}) s) m
cross join lateral (
  select min(s."timestamp") as first,
         string_agg(timestamptz_send(s."timestamp") || float8send(s.open) || float8send(s.high) || float8send(s.low)
                    || float8send(s.close) || float8send(s.volume), ''::bytea order by s."timestamp") as rows
  from (select "timestamp", open, high, low, close, volume from ohlcv_data
        where instrument_id = w.id and timeframe = $7 order by "timestamp" desc limit $9) s) o
cross join lateral (
  select string_agg(timestamptz_send(lower(r)) || timestamptz_send(upper(r)), ''::bytea order by r) as covered
  from unnest(c.covered * tstzmultirange(tstzrange(coalesce(m.first, upper(c.covered)) - $10::float8 * interval '1 ms', null))) r) known
cross join lateral (
  select string_agg(timestamptz_send(lower(r)) || timestamptz_send(upper(r)), ''::bytea order by r) as covered
  from unnest(n.covered * tstzmultirange(tstzrange(o.first - $10::float8 * interval '1 ms', null))) r
  where o.first is not null) own
order by w.k;
