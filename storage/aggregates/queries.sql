-- The statements of layout `continuous`, by name: what they name is only there. Times as in queries.sql.

-- name: columns_of_staleness
-- With rows of a continuous aggregate, in the same statement and so of the same moment: where it is behind.
, (select range_agg(d.span) from agg_dirty d where d.instrument_id = q.i) as dirty, (select done from agg_state) as done;

-- name: staleness
-- Where aggregates are behind, and where there can be candles at all.
select q.i as instrument_id, s.done, (select range_agg(d.span) from agg_dirty d where d.instrument_id = q.i) as dirty,
       lower(c.covered) as first, upper(c.covered) as last
from agg_state s cross join unnest($1::int4[]) q (i)
left join coverage c on c.instrument_id = q.i and c.timeframe = '1m';

-- name: refresh_due
select exists (select from agg_dirty) or done < timestamptz 'epoch' + $1::int8 * interval '1 ms' as due from agg_state;

-- name: refresh_claim
select aggregates_claim(timestamptz 'epoch' + $1::int8 * interval '1 ms');

-- name: refresh_work
-- What is to be brought up to date, the oldest entries first; nothing from before the horizon, which would erase it.
with seen as (select id, span from agg_dirty order by id limit $1)
select s.done, s.claimed, (select horizon from storage_layout) as horizon,
       (select coalesce(array_agg(id), '{}') from seen) as ids, (select range_agg(span) from seen) as dirty
from agg_state s;

-- name: refresh_level
-- Unbatched where the version can: ten batches of a month took thirty times as long. By itself it refreshes only buckets
-- that TimescaleDB's own log calls invalid; `force` makes it refresh the whole window.
call refresh_continuous_aggregate('{relation}', $1::timestamptz, $2::timestamptz{parameters});

-- name: refresh_parameters
-- Which of them this version has: `force` came with 2.18, `options` later.
select array(select unnest(proargnames) from pg_proc where proname = 'refresh_continuous_aggregate') as known;

-- name: refresh_done
with gone as (delete from agg_dirty where id = any ($1::int8[]))
update agg_state set done = greatest(done, $2::timestamptz);

-- name: horizon_blocked
-- Aggregates that are not made yet of what lies behind it.
select done < timestamptz 'epoch' + $1::int8 * interval '1 ms' or exists (
  select from agg_dirty where lower(span) < timestamptz 'epoch' + $1::int8 * interval '1 ms') as blocked from agg_state;
