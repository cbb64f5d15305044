-- The statements of the backfill, by name. Times as in storage/queries.sql.

-- name: backfill_add
insert into backfills (market, provider, symbols, timeframe, span, priority, created_by)
values ($1, $2, $3, $4, tstzrange(ms($5), ms($6)), $7, $8)
returning id;

-- name: backfill_parts_add
-- A part without pieces has nothing to fetch: it is DONE at once, and keeps only the reasons of its gaps.
insert into backfill_parts (backfill_id, timeframe, priority, instrument_id, span, reached, pieces, again, holes, state, ended_at)
select $1, $2, $3, x.i, tstzrange(ms(x.since), ms(x.until)), ms(x.since), x.pieces, x.again, x.holes::jsonb,
       case x.pieces when 0 then 'DONE' else 'OPEN' end, case x.pieces when 0 then now() end
from unnest($4::int4[], $5::int8[], $6::int8[], $7::int4[], $8::bool[], $9::text[]) with ordinality x (i, since, until, pieces, again, holes, k)
order by k;

-- name: backfills_by_id
select b.*, p.*, now() as seen_at,
  (select coalesce(jsonb_agg(jsonb_build_array(h.symbol, h.hole)), '[]')::text from (
     select i.symbol, h.hole from backfill_parts q join instruments i on i.id = q.instrument_id, jsonb_array_elements(q.holes) h (hole)
     where q.backfill_id = b.id and q.holes <> '[]' order by q.id limit $2) h) as holes
from backfills b
cross join lateral (
  select coalesce(sum(pieces), 0)::int as pieces, coalesce(sum(pieces_done), 0)::int as pieces_done,
         coalesce(sum(calls), 0)::int as calls, coalesce(sum(candles), 0)::int8 as candles
  from backfill_parts where backfill_id = b.id) p
where b.id = any ($1::int8[]) order by b.id desc;

-- name: backfills_page
select id from backfills where ($1::text is null or state = $1) and ($2::int8 is null or id < $2) order by id desc limit $3;

-- name: backfills_open
select count(*) from backfills where state in ('QUEUED', 'RUNNING') and created_by is not distinct from $1;

-- name: backfill_parts_of
select i.symbol, sum(p.pieces)::int as pieces, sum(p.pieces_done)::int as pieces_done, sum(p.calls)::int as calls,
       sum(p.candles)::int8 as candles, min(p.next_at) filter (where p.state = 'OPEN' and p.next_at > now()) as retry_at,
       case when bool_or(p.state = 'OPEN') then 'OPEN' when bool_or(p.state = 'FAILED') then 'FAILED'
            when bool_or(p.state = 'CANCELLED') then 'CANCELLED' else 'DONE' end as state
from backfill_parts p join instruments i on i.id = p.instrument_id where p.backfill_id = $1 group by 1 order by 1;

-- name: backfill_cancel
-- Locks the parts before the job, in the same order as `backfill_end`: the other order would deadlock.
with parts as (
  update backfill_parts set state = 'CANCELLED', ended_at = now()
  where id in (select id from backfill_parts where backfill_id = $1 and state = 'OPEN' order by id for update) returning 1)
update backfills set state = 'CANCELLED', ended_at = now()
where (select count(*) from parts) >= 0 and id = $1 and state in ('QUEUED', 'RUNNING');

-- name: backfill_claim
-- Claims the most urgent free part: of job $3 if given, and never of the providers $4. `skip locked` gives two concurrent
-- workers two different parts.
with taken as (
  update backfill_parts set claimed_by = $1, claimed_until = now() + $2::float8 * interval '1 s'
  where id = (
    select p.id from backfill_parts p join instruments i on i.id = p.instrument_id
    where p.state = 'OPEN' and p.next_at <= now() and (p.claimed_until is null or p.claimed_until < now())
      and ($3::int8 is null or p.backfill_id = $3) and i.market || '/' || i.provider <> all ($4::text[])
    order by p.priority desc, p.id limit 1 for update of p skip locked)
  returning *),
started as (
  update backfills set state = 'RUNNING', started_at = coalesce(started_at, now())
  where id = (select backfill_id from taken) and state = 'QUEUED')
select * from taken;

-- name: backfill_progress
-- Records progress after each call and renews the claim. Returns nothing if the part was cancelled or claimed by another worker.
update backfill_parts
set reached = ms($3), calls = calls + $4, candles = candles + $5,
    holes = holes || $6::text::jsonb, claimed_until = now() + $7::float8 * interval '1 s', attempts = 0,
    pieces_done = pieces * extract(epoch from ms($3) - lower(span))
                  / extract(epoch from upper(span) - lower(span))
where id = $1 and claimed_by = $2 and state = 'OPEN' returning id;

-- name: backfill_rest
-- Releases a part and delays its next attempt by $3 seconds. $5 is added to its failed attempts: 0 if the provider is not the
-- cause.
with failed as (
  update backfill_parts
  set attempts = attempts + $5, calls = calls + $4, claimed_by = null, claimed_until = null,
      next_at = now() + $3::float8 * interval '1 s'
  where id = $1 and claimed_by = $2 and state = 'OPEN' returning backfill_id)
update backfills set last_error = $6 where id = (select backfill_id from failed);

-- name: backfill_end
-- Ends a part in state $3 and records its error, if any, in the job.
with ended as (
  update backfill_parts
  set state = $3, claimed_by = null, claimed_until = null, ended_at = now(), calls = calls + $4, candles = candles + $5,
      holes = holes || $6::text::jsonb, pieces_done = case $3 when 'DONE' then pieces else pieces_done end
  where id = $1 and claimed_by = $2 and state = 'OPEN' returning backfill_id)
update backfills set last_error = $7 where id = (select backfill_id from ended) and $7::text is not null;

-- name: backfills_close
-- Ends the jobs that have no open part; a job with a failed part has failed. It is a statement of its own: of two last parts
-- that end at the same time, neither transaction sees that the other part has ended.
update backfills b
set state = case when exists (select from backfill_parts where backfill_id = b.id and state = 'FAILED') then 'FAILED' else 'DONE' end,
    started_at = coalesce(started_at, now()), ended_at = now()
where b.state in ('QUEUED', 'RUNNING') and not exists (select from backfill_parts where backfill_id = b.id and state = 'OPEN');

-- name: backfill_renew
update backfill_parts set claimed_until = now() + $3::float8 * interval '1 s'
where id = any ($1::int8[]) and claimed_by = $2 and state = 'OPEN';

-- name: backfill_release
update backfill_parts set claimed_by = null, claimed_until = null where claimed_by = $1 and state = 'OPEN';

-- name: tracked_add
insert into tracked as t (instrument_id, since, added_by)
select i, ms($2), $3 from unnest($1::int4[]) i order by 1
on conflict (instrument_id) do update set since = least(t.since, excluded.since), checked_at = '-infinity';

-- name: tracked_beside
-- Counts the tracked series other than $1.
select count(*) from tracked where instrument_id <> all ($1::int4[]);

-- name: tracked_remove
-- Untracks series and cancels their open parts. Returns how many were tracked.
with gone as (delete from tracked where instrument_id = any ($1::int4[]) returning 1),
given_up as (
  update backfill_parts set state = 'CANCELLED', ended_at = now()
  where backfill_id is null and state = 'OPEN' and instrument_id = any ($1::int4[]))
select count(*) from gone;

-- name: tracked_page
select * from tracked where instrument_id > $1 order by instrument_id limit $2;

-- name: tracked_by_id
select * from tracked where instrument_id = any ($1::int4[]);

-- name: tracked_take
-- Takes up to $2 series that no process has checked for $1 seconds, and marks them as checked, so that only one process gets
-- each.
update tracked set checked_at = now() where instrument_id in (
  select instrument_id from tracked where checked_at < now() - $1::float8 * interval '1 s'
  order by checked_at limit $2 for update skip locked)
returning *;

-- name: tracked_complete
update tracked set complete_at = now() where instrument_id = any ($1::int4[]);

-- name: tracked_parts
-- Returns the open parts of tracked series, and the recently ended ones. The older the candles, the longer a part counts as recent.
select instrument_id, lower(span) as since, upper(span) as until, state, holes::text as holes
from backfill_parts p
where backfill_id is null and not again and instrument_id = any ($1::int4[])
  and (state = 'OPEN' or ended_at > now() - least(interval '1 day', greatest(interval '1 minute', (now() - upper(span)) / 4)));

-- name: tracked_reread
update tracked set reread_at = ms($2) where instrument_id = any ($1::int4[]);

-- name: tracked_sweep
-- Deletes the ended parts of tracked series: those that failed or found gaps after a day, the others at once.
delete from backfill_parts
where backfill_id is null and state <> 'OPEN' and (state <> 'FAILED' and holes = '[]' or ended_at < now() - interval '1 day');
