-- Every statement the storage floor sends, by name. Times travel as int8 milliseconds since the epoch, UTC.

-- name: instruments_by_key
select q.k::int4 as position, i.*
from unnest($1::text[], $2::text[], $3::text[]) with ordinality q (market, provider, symbol, k)
join instruments i using (market, provider, symbol);

-- name: instruments_search
select i.* from instruments i
where market = $1 and provider = $2 and (active or $3)
  and ($4::text is null or symbol ilike $4 or name ilike $4)
  and ($5::text is null or symbol > $5)
order by symbol limit $6;

-- name: instruments_count
select count(*) from instruments i
where market = $1 and provider = $2 and (active or $3) and ($4::text is null or symbol ilike $4 or name ilike $4);

-- name: instruments_list
insert into instruments as i
  (market, provider, symbol, name, base_currency, quote_currency, timezone, active, listed, first_available, ended_at)
select $1, $2, x.symbol, x.name, x.base, x.quote, x.timezone, x.active, true,
       timestamptz 'epoch' + x.first * interval '1 ms', timestamptz 'epoch' + x.ended * interval '1 ms'
from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bool[], $9::int8[], $10::int8[])
  x (symbol, name, base, quote, timezone, active, first, ended)
order by x.symbol
on conflict (market, provider, symbol) do update set
  name = excluded.name, base_currency = excluded.base_currency, quote_currency = excluded.quote_currency,
  timezone = excluded.timezone, active = excluded.active, listed = true,
  first_available = coalesce(excluded.first_available, i.first_available),
  ended_at = excluded.ended_at, updated_at = now()
where (i.name, i.base_currency, i.quote_currency, i.timezone, i.active, i.listed, i.ended_at)
      is distinct from (excluded.name, excluded.base_currency, excluded.quote_currency, excluded.timezone, excluded.active,
                        true, excluded.ended_at)
   or excluded.first_available is distinct from i.first_available;

-- name: instruments_unlist
update instruments set active = false, updated_at = now()
where market = $1 and provider = $2 and listed and active and not symbol = any ($3::text[]);

-- name: instrument_import
insert into instruments as i (market, provider, symbol, timezone) values ($1, $2, $3, $4)
on conflict (market, provider, symbol) do update set timezone = i.timezone
returning *;

-- name: instrument_pairs
select market, provider, bool_or(listed) as listed from instruments group by 1, 2 order by 1, 2;

-- name: timeframes_stored
select distinct c.timeframe from coverage c join instruments i on i.id = c.instrument_id
where i.market = $1 and i.provider = $2;

-- name: coverage_by_instrument
select c.instrument_id, c.timeframe, c.covered, c.revision from coverage c where c.instrument_id = any ($1::int4[]);

-- name: coverage_lock
-- First in every writing transaction, and in the order of the keys: the row locks put writers in a line. Whether any of
-- it was covered before.
with given as (
  select x.i, x.tf, range_agg(tstzrange(timestamptz 'epoch' + x.since * interval '1 ms',
                                        timestamptz 'epoch' + x.until * interval '1 ms')) as spans
  from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) x (i, tf, since, until) group by 1, 2),
locked as (
  insert into coverage as c (instrument_id, timeframe) select i, tf from given order by 1, 2
  on conflict (instrument_id, timeframe) do update set version = c.version + 1
  returning instrument_id, timeframe, covered)
select coalesce(bool_or(l.covered && g.spans), false) from locked l join given g on g.i = l.instrument_id and g.tf = l.timeframe;

-- name: coverage_extend
-- Last: what was written is covered, and everybody is told. The revision goes up where what was known before has changed,
-- or where 1m candles now take the place of coarser ones.
with told as (
  insert into changes (instrument_ids, corrected)
  select array_agg(x.i), array_agg(tstzrange(timestamptz 'epoch' + x.since * interval '1 ms',
                                             timestamptz 'epoch' + x.until * interval '1 ms'))
  from unnest($5::int4[], $6::int8[], $7::int8[]) x (i, since, until) returning xid),
extended as (
  update coverage c
  set covered = c.covered + x.spans, updated_at = now(),
      revision = c.revision + (x.i = any ($8::int4[]) or exists (
        select from coverage o where o.instrument_id = x.i and o.timeframe <> x.tf and o.covered && x.spans))::int
  from (select x.i, x.tf, range_agg(tstzrange(timestamptz 'epoch' + x.since * interval '1 ms',
                                              timestamptz 'epoch' + x.until * interval '1 ms')) as spans
        from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) x (i, tf, since, until) group by 1, 2) x
  where c.instrument_id = x.i and c.timeframe = x.tf)
select xid::text from told;

-- name: changes_since
-- By transaction numbers: $1 is the oldest transaction that was still running when this was last asked.
select pg_snapshot_xmin(pg_current_snapshot())::text as seen, c.xid::text, c.instrument_ids, c.corrected
from (select) one left join changes c on c.xid >= $1::text::xid8;

-- name: changes_forget
delete from changes where at < now() - $1::float8 * interval '1 s';

-- name: levels_there
select view_name, target_timeframe, is_active from preaggregation_configs where to_regclass(view_name) is not null;

-- name: database_name
-- What no other database is called: a copy of one has its id as well, but not its number.
select database_id::text || '-' || (select oid::text from pg_database where datname = current_database()) as name
from storage_layout;

-- name: aggregates_written
select aggregates_written($1::int4[], array(select timestamptz 'epoch' + s * interval '1 ms' from unnest($2::int8[]) with ordinality x (s, k) order by k),
  array(select timestamptz 'epoch' + s * interval '1 ms' from unnest($3::int8[]) with ordinality x (s, k) order by k), $4);

-- name: candles_exist
select exists (
  select from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) x (i, tf, first, last)
  cross join lateral (
    select from ohlcv_data d where d.instrument_id = x.i and d.timeframe = x.tf
      and d."timestamp" >= timestamptz 'epoch' + x.first * interval '1 ms'
      and d."timestamp" <= timestamptz 'epoch' + x.last * interval '1 ms' limit 1) found);

-- name: candles_stage
create temp table if not exists incoming (like ohlcv_data including defaults) on commit delete rows;

-- name: candles_withdraw
-- Of spans that were read again, the rows that are not there any more.
with gone as (
  delete from ohlcv_data d
  using unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) x (i, tf, since, until)
  where d.instrument_id = x.i and d.timeframe = x.tf
    and d."timestamp" >= timestamptz 'epoch' + x.since * interval '1 ms'
    and d."timestamp" < timestamptz 'epoch' + x.until * interval '1 ms'
    and not exists (select from incoming n where n.instrument_id = d.instrument_id and n.timeframe = d.timeframe
                    and n."timestamp" = d."timestamp")
  returning d.*),
logged as (
  insert into corrections (instrument_id, timeframe, "timestamp", old_open, old_high, old_low, old_close, old_volume, old_source)
  select instrument_id, timeframe, "timestamp", open, high, low, close, volume, source from gone)
select instrument_id, timeframe, min("timestamp") as first, max("timestamp") as last from gone group by 1, 2;

-- name: candles_correct
-- What of the staged rows changes something that was final: another candle, or one where there was known to be none.
with changed as (
  insert into corrections (instrument_id, timeframe, "timestamp", old_open, old_high, old_low, old_close, old_volume, old_source,
                           new_open, new_high, new_low, new_close, new_volume, new_source)
  select n.instrument_id, n.timeframe, n."timestamp", d.open, d.high, d.low, d.close, d.volume, d.source,
         n.open, n.high, n.low, n.close, n.volume, n.source
  from incoming n
  left join ohlcv_data d using (instrument_id, timeframe, "timestamp")
  left join coverage c using (instrument_id, timeframe)
  where case when d.instrument_id is null then c.covered @> n."timestamp"
             else (d.open, d.high, d.low, d.close, d.volume) is distinct from (n.open, n.high, n.low, n.close, n.volume) end
  returning instrument_id, timeframe, "timestamp")
select instrument_id, timeframe, min("timestamp") as first, max("timestamp") as last from changed group by 1, 2;

-- name: candles_merge
insert into ohlcv_data as d select * from incoming order by instrument_id, timeframe, "timestamp"
on conflict (instrument_id, timeframe, "timestamp") do update
set source = excluded.source, open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume
where (d.open, d.high, d.low, d.close, d.volume)
      is distinct from (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume);

-- name: candles_oldest
-- Row-packed: one bytea a series, read by numpy in place (six 8-byte big-endian fields a row). What stands in braces is
-- filled in by the program, from a closed set of relations.
select p.rows from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[], $5::int4[])
  with ordinality q (i, tf, since, until, n, k)
cross join lateral (
  select string_agg(timestamptz_send(s.{stamp}) || float8send(s.open) || float8send(s.high) || float8send(s.low)
                    || float8send(s.close) || float8send(s.volume), ''::bytea order by s.{stamp}) as rows
  from (select {stamp}, open, high, low, close, volume from {relation}
        where instrument_id = q.i {filter}
          and {stamp} >= timestamptz 'epoch' + q.since * interval '1 ms'
          and {stamp} < timestamptz 'epoch' + q.until * interval '1 ms'
        order by {stamp} limit q.n) s) p
order by q.k;

-- name: candles_newest
select p.rows from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[], $5::int4[])
  with ordinality q (i, tf, since, until, n, k)
cross join lateral (
  select string_agg(timestamptz_send(s.{stamp}) || float8send(s.open) || float8send(s.high) || float8send(s.low)
                    || float8send(s.close) || float8send(s.volume), ''::bytea order by s.{stamp}) as rows
  from (select {stamp}, open, high, low, close, volume from {relation}
        where instrument_id = q.i {filter}
          and {stamp} >= timestamptz 'epoch' + q.since * interval '1 ms'
          and {stamp} < timestamptz 'epoch' + q.until * interval '1 ms'
        order by {stamp} desc limit q.n) s) p
order by q.k;

-- name: fetch_log_add
insert into fetch_log (instrument_id, timeframe, asked, rows, outcome, milliseconds)
values ($1, $2, tstzrange(timestamptz 'epoch' + $3::int8 * interval '1 ms', timestamptz 'epoch' + $4::int8 * interval '1 ms'),
        $5, $6, $7);

-- name: user_by_name
select * from users where lower(name) = lower($1);

-- name: users_by_id
select * from users where id = any ($1::int4[]);

-- name: users_all
select * from users order by lower(name);

-- name: users_exist
select exists (select from users) as exist;

-- name: user_add
insert into users (name, password_hash, role) values ($1, $2, $3) on conflict do nothing returning *;

-- name: user_disable
update users set disabled = $2::bool, version = version + ($2::bool)::int, changed_at = now() where lower(name) = lower($1) returning *;

-- name: user_password
update users set password_hash = $2, version = version + 1, changed_at = now() where lower(name) = lower($1) returning *;

-- name: user_rehash
update users set password_hash = $3 where id = $1 and password_hash = $2;

-- name: configs_by_user
select user_id, config::text as config, updated_at from user_configs where user_id = any ($1::int4[]);

-- name: config_save
-- $3 is when it was saved as far as the client knows, or null. Whole milliseconds, as they are printed, and always later.
insert into user_configs as c (user_id, config, updated_at)
select $1, $2::text::json, date_trunc('milliseconds', clock_timestamp())
where $3::timestamptz is null or exists (select from user_configs where user_id = $1)
on conflict (user_id) do update
set config = excluded.config, updated_at = greatest(excluded.updated_at, c.updated_at + interval '1 ms')
where $3::timestamptz is null or c.updated_at = $3
returning updated_at;

-- name: refresh_begin
-- $1 user, $2 version, $3 hash, $4 seconds to live; nothing where the user was disabled or changed meanwhile.
with swept as (delete from refresh_families where user_id = $1 and expires_at < now()),
opened as (
  insert into refresh_families (user_id, version, expires_at)
  select id, version, now() + $4::float8 * interval '1 s' from users where id = $1 and version = $2 and not disabled
  returning id)
insert into refresh_tokens (hash, family) select $3, id from opened returning family;

-- name: refresh_rotate
-- Of any number of uses at once one updates the row; the others wait for it, then find it used.
with used as (
  update refresh_tokens t set used_at = now(), successor = $2
  from refresh_families f join users u on u.id = f.user_id
  where t.hash = $1 and t.used_at is null and f.id = t.family
    and f.revoked_at is null and f.expires_at > now() and f.version = u.version and not u.disabled
  returning t.family, u.*),
issued as (insert into refresh_tokens (hash, family) select $2, family from used)
select * from used;

-- name: refresh_refuse
-- Why it was not rotated. A use long after the first one ends the family: one of the two who hold the token is a thief.
with t as (
  select f.id, f.user_id, t.used_at > now() - $2::float8 * interval '1 s' as recent
  from refresh_tokens t join refresh_families f on f.id = t.family
  where t.hash = $1 and t.used_at is not null and f.revoked_at is null),
revoked as (update refresh_families f set revoked_at = now() from t where f.id = t.id and not t.recent)
select * from t;

-- name: refresh_end
update refresh_families f set revoked_at = now()
from refresh_tokens t
where t.hash = $1 and f.id = t.family and f.revoked_at is null and f.expires_at > now()
returning f.id;
