-- The statements of the storage layer, by name. Parameters pass times as int8 milliseconds since the epoch, UTC; the SQL
-- function `ms` converts them. "Packed" results are one bytea of 8-byte big-endian fields, which numpy reads in place.

-- name: instruments_by_key
select i.*
from unnest($1::text[], $2::text[], $3::text[]) q (market, provider, symbol)
join instruments i using (market, provider, symbol);

-- name: instruments_search
select i.* from instruments i
where market = $1 and provider = $2 and (active or $3) and ($4::text is null or folded like $4)
  and ($5::text is null or symbol > $5)
order by symbol limit $6;

-- name: instruments_count
select count(*) from instruments i
where market = $1 and provider = $2 and (active or $3) and ($4::text is null or folded like $4);

-- name: listing_ages
-- Returns the age of each stored list, in seconds.
select market, provider, extract(epoch from now() - listed_at)::float8 as age from listings
join unnest($1::text[], $2::text[]) q (market, provider) using (market, provider);

-- name: listing_note
-- The first statement of the transaction that stores a list: processes with the same list queue on its row. $3 is the age of
-- the list in seconds. Returns nothing if a newer list is stored already.
insert into listings as l (market, provider, listed_at) values ($1, $2, clock_timestamp() - $3::float8 * interval '1 s')
on conflict (market, provider) do update set listed_at = excluded.listed_at where l.listed_at < excluded.listed_at
returning true;

-- name: instruments_list
-- Stores the symbols of a list and updates the rows that changed. It keeps a `first_available` that the provider no longer
-- reports.
insert into instruments as i
  (market, provider, symbol, name, folded, base_currency, quote_currency, timezone, active, listed, first_available, ended_at,
   has_volume, kind, contract_size, price_increment, quantity_increment)
select $1, $2, x.symbol, x.name, x.folded, x.base, x.quote, x.timezone, x.active, true,
       ms(x.first), ms(x.ended), x.volume, x.kind, x.size, x.price, x.quantity
from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bool[], $10::int8[], $11::int8[],
            $12::bool[], $13::text[], $14::float8[], $15::float8[], $16::float8[])
  x (symbol, name, folded, base, quote, timezone, active, first, ended, volume, kind, size, price, quantity)
order by x.symbol
on conflict (market, provider, symbol) do update set
  name = excluded.name, folded = excluded.folded, base_currency = excluded.base_currency,
  quote_currency = excluded.quote_currency, timezone = excluded.timezone, active = excluded.active, listed = true,
  first_available = coalesce(excluded.first_available, i.first_available),
  ended_at = excluded.ended_at, has_volume = excluded.has_volume, kind = excluded.kind, contract_size = excluded.contract_size,
  price_increment = excluded.price_increment, quantity_increment = excluded.quantity_increment, updated_at = now()
where (i.name, i.folded, i.base_currency, i.quote_currency, i.timezone, i.active, i.listed, i.ended_at, i.has_volume, i.kind,
       i.contract_size, i.price_increment, i.quantity_increment)
      is distinct from (excluded.name, excluded.folded, excluded.base_currency, excluded.quote_currency, excluded.timezone,
                        excluded.active, true, excluded.ended_at, excluded.has_volume, excluded.kind, excluded.contract_size,
                        excluded.price_increment, excluded.quantity_increment)
   or excluded.first_available is distinct from i.first_available;

-- name: instruments_calendars
-- Gives calendars to the listed symbols $3 that have none. Their days are decided by what is stored of them, else by $5.
select g.* from (
  select array_agg(i.id) as ids, array_agg(x.name) as names
  from unnest($3::text[], $4::text[]) x (symbol, name) join instruments i on i.market = $1 and i.provider = $2 and i.symbol = x.symbol
  where i.calendar is null) q, gain_calendars(q.ids, q.names, $5) g
where q.ids is not null;

-- name: calendar_counts
-- Counts the instruments of each calendar: all, those with their provider's days, and those whose earlier days were withdrawn.
select i.calendar, count(*) as instruments, count(*) filter (where i.native_days) as native,
       count(*) filter (where exists (select from coverage_withdrawals w where w.instrument_id = i.id and w.timeframe = '1d')) as withdrawn
from instruments i where i.calendar is not null group by 1 order by 1;

-- name: calendar_of_provider
-- Returns the calendar of a symbol of a provider, if any has one.
select calendar from instruments where market = $1 and provider = $2 and calendar is not null limit 1;

-- name: calendars_read
select *, (extract(epoch from computed_at) * 1000)::int8 as version from calendars where name = any ($1::text[]);

-- name: calendars_due
-- Returns the calendars that were computed more than $1 seconds ago.
select name from calendars where computed_at < now() - $1::float8 * interval '1 s';

-- name: calendars_changed
-- Returns those of the calendars $1 whose stored version is not $2.
select c.name from calendars c join unnest($1::text[], $2::int8[]) x (name, version) using (name)
where (extract(epoch from c.computed_at) * 1000)::int8 <> x.version;

-- name: calendar_store
insert into calendars as c (name, timezone, dates, opens, closes, break_starts, break_ends, extended_opens, extended_closes, early)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict (name) do update set
  timezone = excluded.timezone, dates = excluded.dates, opens = excluded.opens, closes = excluded.closes,
  break_starts = excluded.break_starts, break_ends = excluded.break_ends, extended_opens = excluded.extended_opens,
  extended_closes = excluded.extended_closes, early = excluded.early, computed_at = now();

-- name: instruments_unlist
-- Deactivates the listed symbols that the new list no longer has.
update instruments set active = false, updated_at = now()
where market = $1 and provider = $2 and listed and active and not symbol = any ($3::text[]);

-- name: instrument_import
-- The volumes of an imported symbol are known once a file has had some; without the update `returning` would leave out a row.
insert into instruments as i (market, provider, symbol, timezone, folded, has_volume) values ($1, $2, $3, $4, $5, $6)
on conflict (market, provider, symbol) do update set has_volume = i.has_volume or (excluded.has_volume and not i.listed)
returning *;

-- name: instrument_beginning
-- Stores when the first candle of an instrument opens, unless that is stored already or an older candle is.
update instruments i set first_available = ms($2), updated_at = now()
where id = $1 and first_available is null
  and not exists (select from ohlcv_data d where d.instrument_id = i.id and d.timeframe = '1m' and d."timestamp" < ms($2))
returning id;

-- name: instrument_pairs
select distinct market, provider from instruments order by 1, 2;

-- name: timeframes_stored
select distinct c.timeframe from coverage c join instruments i on i.id = c.instrument_id
where i.market = $1 and i.provider = $2;

-- name: coverage_by_instrument
-- Returns at least one row for each instrument: the horizon applies even if nothing is covered. The spans are packed into
-- one bytea, as candles are: asyncpg takes a tenth of a second to decode ten thousand ranges.
select i as instrument_id, c.timeframe, c.revision, c.source_lineage, c.source_state, (select horizon from storage_layout) as horizon,
  (select string_agg(timestamptz_send(lower(r)) || timestamptz_send(upper(r)), ''::bytea order by r) from unnest(c.covered) r) as covered,
  (select jsonb_agg(jsonb_build_array((extract(epoch from s.asked_at) * 1000)::int8, (extract(epoch from lower(x.span)) * 1000)::int8,
                                      (extract(epoch from upper(x.span)) * 1000)::int8))::text
   from suspects s, unnest(s.spans) x (span) where s.instrument_id = c.instrument_id and s.timeframe = c.timeframe) as suspects,
  (select jsonb_agg(jsonb_build_array((extract(epoch from f.retry_at) * 1000)::int8, (extract(epoch from lower(x.span)) * 1000)::int8,
                                      (extract(epoch from upper(x.span)) * 1000)::int8))::text
   from fetch_retries f, unnest(f.spans) x (span) where f.instrument_id = c.instrument_id and f.timeframe = c.timeframe) as retries,
  coalesce((select max(k.id) from corrections k where k.instrument_id = c.instrument_id and k.timeframe = c.timeframe), 0) as corrected,
  coalesce((select max(w.id) from coverage_withdrawals w
            where w.instrument_id = c.instrument_id and w.timeframe = c.timeframe and not isempty(w.lost)), 0) as withdrawn
from unnest($1::int4[]) i left join coverage c on c.instrument_id = i;

-- name: coverage_lock
-- The first statement of every writing transaction. It locks in key order, so writers queue. Returns whether any span was
-- covered before, and the retention horizon. Returns null if lease $5 is no longer held by $7 at epoch $6. The lease row is
-- share-locked until commit: a successor takes over before this write (which then fails) or after it. The idle timeout ends
-- a frozen writer's transaction when its lease expires.
-- TimescaleDB ends a transaction that decompresses many rows. A long write is not an error, so this one lifts the limit.
with held as (
  select set_config('idle_in_transaction_session_timeout',
                    (1000 * greatest(1, extract(epoch from expires_at - now())))::int4::text, true)
  from leases where name = $5 and epoch = $6 and holder = $7 and expires_at > now() for share),
given as (
  select x.i, x.tf, range_agg(tstzrange(ms(x.since), ms(x.until))) as spans
  from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) x (i, tf, since, until)
  where $5::text is null or exists (select from held) group by 1, 2),
locked as (
  insert into coverage as c (instrument_id, timeframe) select i, tf from given order by 1, 2
  on conflict (instrument_id, timeframe) do update set version = c.version + 1
  returning instrument_id, timeframe, covered)
select bool_or(l.covered && g.spans) as known, (select horizon from storage_layout) as horizon,
       (select set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true)
        from storage_layout where hypertable) as unlimited
from locked l join given g on g.i = l.instrument_id and g.tf = l.timeframe;

-- name: coverage_source
-- Sets the revision of a series to lineage $3 and state $4; null keeps the stored one. If the stored lineage is another, $5
-- replaces it; without $5 the statement changes and returns nothing.
update coverage set source_lineage = coalesce($3, case when not $5 then source_lineage end),
                    source_state = coalesce($4, case when not $5 then source_state end)
where instrument_id = $1 and timeframe = $2 and ($5 or coalesce(source_lineage = $3, true)) returning true;

-- name: coverage_adopt
update coverage set source_lineage = $3, source_state = $4 where instrument_id = $1 and timeframe = $2
and exists (select from ohlcv_data d where d.instrument_id = $1 and d.timeframe = $2 and d.source = 'i') returning true;

-- name: coverage_revoke
-- Withdraws the coverage of spans and raises the revision, so that cached candles of them are stale.
with x as (
  select x.i, x.tf, range_agg(tstzrange(ms(x.since), ms(x.until))) as spans
  from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) x (i, tf, since, until) group by 1, 2),
logged as (
  insert into coverage_withdrawals (instrument_id, timeframe, span, uncovered, reason, lost)
  select x.i, x.tf, range_merge(l.lost), (select sum(upper(r) - lower(r)) from unnest(l.lost) r),
         'the provider replaced its data', l.lost
  from x join coverage c on c.instrument_id = x.i and c.timeframe = x.tf
  cross join lateral (select c.covered * x.spans as lost) l where not isempty(l.lost))
update coverage c set covered = c.covered - x.spans, revision = c.revision + 1
from x where c.instrument_id = x.i and c.timeframe = x.tf;

-- name: coverage_extend
-- The last statement of a writing transaction: it covers the written spans and publishes the change to all processes. The
-- revision goes up if final candles changed, or if 1m candles replace coarser ones.
with published as (
  insert into changes (instrument_ids, corrected)
  select array_agg(x.i), array_agg(tstzrange(ms(x.since), ms(x.until)))
  from unnest($5::int4[], $6::int8[], $7::int8[]) x (i, since, until) returning xid),
extended as (
  update coverage c
  set covered = c.covered + x.spans, updated_at = now(),
      revision = c.revision + (x.i = any ($8::int4[]) or exists (
        select from coverage o where o.instrument_id = x.i and o.timeframe <> x.tf and o.covered && x.spans))::int
  from (select x.i, x.tf, range_agg(tstzrange(ms(x.since), ms(x.until))) as spans
        from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) x (i, tf, since, until) group by 1, 2) x
  where c.instrument_id = x.i and c.timeframe = x.tf)
select xid::text from published;

-- name: changes_since
-- $1 is the oldest transaction that was still running at the last call (`seen`). A transaction may commit after one that began
-- later; so this reads from $1 on, and callers get some changes twice.
select pg_snapshot_xmin(pg_current_snapshot())::text as seen, c.xid::text, c.instrument_ids, c.corrected
from (select) one left join changes c on c.xid >= $1::text::xid8;

-- name: changes_forget
delete from changes where at < now() - $1::float8 * interval '1 s';

-- name: layout
select kind from storage_layout;

-- name: fetches_forget
-- Deletes at most 10,000 rows, to stay short. It runs once a minute, and a minute adds fewer rows than that.
delete from fetch_log where id in (select id from fetch_log where at < now() - interval '30 days' order by at limit 10000);

-- name: levels_there
select view_name, target_timeframe, is_active from preaggregation_configs where to_regclass(view_name) is not null;

-- name: data_directory
-- Returns the data directory if the server is on this machine and the role may read that setting.
select setting as directory from pg_settings
where name = 'data_directory' and (inet_server_addr() is null or inet_server_addr() <<= '127.0.0.0/8' or inet_server_addr() = '::1');

-- name: database_name
-- Returns a name that is unique to this database: a copy has the same `database_id`, but another oid.
select database_id::text || '-' || (select oid::text from pg_database where datname = current_database()) as name
from storage_layout;

-- name: server_id
-- Returns an id made of the stored UUID and the oid, because a copy of the database has the same UUID.
select md5(database_id::text || (select oid::text from pg_database where datname = current_database()))::uuid as id
from storage_layout;

-- name: aggregates_update
select update_aggregates($1::int4[], array(select ms(s) from unnest($2::int8[]) with ordinality x (s, k) order by k),
                          array(select ms(s) from unnest($3::int8[]) with ordinality x (s, k) order by k), $4);

-- name: statement_timeout
select set_config('statement_timeout', $1, true);

-- name: candles_exist
select exists (
  select from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) x (i, tf, first, last)
  cross join lateral (
    select from ohlcv_data d where d.instrument_id = x.i and d.timeframe = x.tf
      and d."timestamp" >= ms(x.first) and d."timestamp" <= ms(x.last) limit 1) found);

-- name: candles_stage
create temp table incoming (like ohlcv_data including defaults) on commit drop;

-- name: candles_withdraw
-- Deletes the stored rows of re-read spans that the provider no longer returns, and logs each as a correction.
with gone as (
  delete from ohlcv_data d
  using unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) x (i, tf, since, until)
  where d.instrument_id = x.i and d.timeframe = x.tf
    and d."timestamp" >= ms(x.since) and d."timestamp" < ms(x.until)
    and not exists (select from incoming n where n.instrument_id = d.instrument_id and n.timeframe = d.timeframe
                    and n."timestamp" = d."timestamp")
  returning d.*),
logged as (
  insert into corrections (instrument_id, timeframe, "timestamp", old_open, old_high, old_low, old_close, old_volume, old_source)
  select instrument_id, timeframe, "timestamp", open, high, low, close, volume, source from gone)
select instrument_id, timeframe, min("timestamp") as first, max("timestamp") as last from gone group by 1, 2;

-- name: candles_correct
-- Logs each staged row that changes a final minute: its candle differs, or the minute was known to have none.
with changed as (
  insert into corrections (instrument_id, timeframe, "timestamp", old_open, old_high, old_low, old_close, old_volume, old_source,
                           new_open, new_high, new_low, new_close, new_volume, new_source)
  select n.instrument_id, n.timeframe, n."timestamp", d.open, d.high, d.low, d.close, d.volume, d.source,
         n.open, n.high, n.low, n.close, n.volume, n.source
  from incoming n
  -- `lateral` forces index lookups: the planner cannot know how many rows are staged, and would hash all stored candles.
  left join lateral (select * from ohlcv_data o where o.instrument_id = n.instrument_id and o.timeframe = n.timeframe
                     and o."timestamp" = n."timestamp" limit 1) d on true
  left join coverage c on c.instrument_id = n.instrument_id and c.timeframe = n.timeframe
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
-- Returns one bytea for each read; numpy reads it in place (six 8-byte big-endian fields a row). The program fills the braces
-- from a closed set of relations.
select p.rows{columns} from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[], $5::int4[])
  with ordinality q (i, tf, since, until, n, k)
cross join lateral (
  select string_agg(timestamptz_send(s.{stamp}) || float8send(s.open) || float8send(s.high) || float8send(s.low)
                    || float8send(s.close) || float8send(s.volume), ''::bytea order by s.{stamp}) as rows
  from (select {stamp}, open, high, low, close, volume from {relation}
        where instrument_id = q.i {filter}
          and {stamp} >= ms(q.since) and {stamp} < ms(q.until)
        order by {stamp} limit q.n) s) p
order by q.k;

-- name: candles_newest
select p.rows{columns} from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[], $5::int4[])
  with ordinality q (i, tf, since, until, n, k)
cross join lateral (
  select string_agg(timestamptz_send(s.{stamp}) || float8send(s.open) || float8send(s.high) || float8send(s.low)
                    || float8send(s.close) || float8send(s.volume), ''::bytea order by s.{stamp}) as rows
  from (select {stamp}, open, high, low, close, volume from {relation}
        where instrument_id = q.i {filter}
          and {stamp} >= ms(q.since) and {stamp} < ms(q.until)
        order by {stamp} desc limit q.n) s) p
order by q.k;

-- name: horizon
-- Returns the horizon, and whether the candles before it may be dropped: two minutes after it moved, every reader knows it.
select horizon, coalesce(moved_at < now() - interval '2 minutes' and (dropped_at is null or dropped_at < moved_at), false) as due
from storage_layout;

-- name: instruments_within
-- Returns the instruments that may have 1m candles between $1 and $2.
select instrument_id from coverage
where timeframe = '1m' and covered && tstzrange(ms($1), ms($2));

-- name: corrections_page
-- Returns the newest corrections before the id $4, each with its instrument.
select i.*, c.id as correction_id, c.timeframe, c."timestamp", c.old_open, c.old_high, c.old_low, c.old_close, c.old_volume,
       c.old_source, c.new_open, c.new_high, c.new_low, c.new_close, c.new_volume, c.new_source, c.corrected_at
from corrections c join instruments i on i.id = c.instrument_id
where ($1::text is null or i.market = $1) and ($2::text is null or i.provider = $2) and ($3::text is null or i.symbol = $3)
  and c.id < $4
order by c.id desc limit $5;

-- name: corrections_of_symbol
-- As `corrections_page`, for one symbol: it reads the newest entries of each series from the index, whatever others have.
select i.*, c.*
from instruments i join coverage s on s.instrument_id = i.id
cross join lateral (
  select k.id as correction_id, k.timeframe, k."timestamp", k.old_open, k.old_high, k.old_low, k.old_close, k.old_volume,
         k.old_source, k.new_open, k.new_high, k.new_low, k.new_close, k.new_volume, k.new_source, k.corrected_at
  from corrections k where k.instrument_id = i.id and k.timeframe = s.timeframe and k.id < $4
  order by k.id desc limit $5) c
where ($1::text is null or i.market = $1) and ($2::text is null or i.provider = $2) and i.symbol = $3
order by c.correction_id desc limit $5;

-- name: series_page
-- Returns a page of the series with coverage, in the order of their names, after the key ($4, $5, $6, $7). `covered` has the
-- newest $9 spans, and `span_count` and `covered_ms` count all of them, without candles that are dropped. `newest` counts the
-- newest candles, at most $10, and `newest_from` is the opening of the oldest of these: together they give the density.
select i.*, c.timeframe, h.horizon,
  (select string_agg(timestamptz_send(lower(r)) || timestamptz_send(upper(r)), ''::bytea order by r) from (
     select r from unnest(c.covered) r order by r desc limit $9) n) as covered,
  k.span_count, k.covered_ms, n.newest, n.newest_from,
  (select string_agg(timestamptz_send(lower(f.span)) || timestamptz_send(upper(f.span)), ''::bytea order by f.span)
   from claims f where f.instrument_id = i.id and f.timeframe = c.timeframe and f.expires_at > now()) as fetching,
  (select jsonb_agg(jsonb_build_array(o.timeframe,
     (select max(x.id) from corrections x where x.instrument_id = i.id and x.timeframe = o.timeframe),
     (select max(x.id) from coverage_withdrawals x
      where x.instrument_id = i.id and x.timeframe = o.timeframe and not isempty(x.lost))))::text
   from coverage o where o.instrument_id = i.id) as marks
from instruments i join coverage c on c.instrument_id = i.id cross join storage_layout h
cross join lateral (
  select count(*)::int as span_count,
         coalesce((extract(epoch from sum(upper(r) - greatest(lower(r), x.kept_from)) filter (where upper(r) > x.kept_from)) * 1000)::int8, 0)
           as covered_ms
  from unnest(c.covered) r
  cross join (select coalesce(case c.timeframe when '1m' then h.horizon end, '-infinity') as kept_from) x) k
cross join lateral (
  select count(*)::int as newest, min(d."timestamp") as newest_from from (
    select "timestamp" from ohlcv_data
    where instrument_id = i.id and timeframe = c.timeframe order by "timestamp" desc limit $10) d) n
where ($1::text is null or i.market = $1) and ($2::text is null or i.provider = $2) and ($3::text is null or i.folded like $3)
  and (i.market, i.provider, i.symbol) >= ($4, $5, $6) and (i.market, i.provider, i.symbol, c.timeframe) > ($4, $5, $6, $7)
order by i.market, i.provider, i.symbol, c.timeframe limit $8;

-- name: storage_sizes
-- Returns estimates: rows are the planner's density times the present size of the table, and exact while it is small. The oldest
-- and the newest candle are those of the hundred series that are covered furthest back, and furthest forward.
with base as (
  select pg_relation_size(c.oid) / current_setting('block_size')::int8 as pages, c.reltuples, c.relpages,
         pg_total_relation_size(c.oid) as bytes
  from pg_class c where c.oid = 'ohlcv_data'::regclass)
select b.bytes, (select hypertable from storage_layout) as hypertable,
  case when b.pages > 1000 and b.reltuples > 0 and b.relpages > 0 then b.reltuples::float8 / b.relpages * b.pages
       else (select count(*) from (select from ohlcv_data limit 200000) d)::float8 end as rows,
  (select sum(pg_total_relation_size(to_regclass(view_name)))::int8 from preaggregation_configs
   where to_regclass(view_name) is not null) as aggregate_bytes,
  (select min(d.first) from (
     select instrument_id, timeframe from coverage where not isempty(covered) order by lower(covered) limit 100) c
   cross join lateral (select min("timestamp") as first from ohlcv_data o
                       where o.instrument_id = c.instrument_id and o.timeframe = c.timeframe) d) as oldest,
  (select max(d.last) from (
     select instrument_id, timeframe from coverage where not isempty(covered) order by upper(covered) desc limit 100) c
   cross join lateral (select max("timestamp") as last from ohlcv_data o
                       where o.instrument_id = c.instrument_id and o.timeframe = c.timeframe) d) as newest
from base b;

-- name: storage_hypertable
-- Returns the sizes of a hypertable, whose chunks may be compressed, and of continuous aggregates.
select hypertable_size('ohlcv_data') as bytes, approximate_row_count('ohlcv_data')::float8 as rows,
  (select sum(hypertable_size(format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)::regclass))::int8
   from timescaledb_information.continuous_aggregates) as aggregate_bytes;

-- name: fetch_log_add
insert into fetch_log (instrument_id, timeframe, asked, rows, outcome, milliseconds)
values ($1, $2, tstzrange(ms($3), ms($4)), $5, $6, $7);

-- name: suspects_add
insert into suspects as s (instrument_id, timeframe, asked_at, spans)
select $1, $2, ms($3), range_agg(tstzrange(ms(x.since), ms(x.until)))
from unnest($4::int8[], $5::int8[]) x (since, until)
on conflict (instrument_id, timeframe, asked_at) do update set spans = s.spans + excluded.spans;

-- name: suspects_settle
-- Removes the re-checked spans from the entries up to $3, and deletes the entries that are empty after that.
with settled as (
  select range_agg(tstzrange(ms(x.since), ms(x.until))) as spans
  from unnest($4::int8[], $5::int8[]) x (since, until)),
old as (
  select s.instrument_id, s.timeframe, s.asked_at, s.spans - settled.spans as rest from suspects s, settled
  where s.instrument_id = $1 and s.timeframe = $2 and s.asked_at <= ms($3)
    and s.spans && settled.spans),
gone as (
  delete from suspects s using old
  where (s.instrument_id, s.timeframe, s.asked_at) = (old.instrument_id, old.timeframe, old.asked_at) and isempty(old.rest))
update suspects s set spans = old.rest from old
where (s.instrument_id, s.timeframe, s.asked_at) = (old.instrument_id, old.timeframe, old.asked_at) and not isempty(old.rest);

-- name: fetch_retries_lock
-- Makes the writers of one series queue on its coverage row, which it creates if necessary: a span may need a retry before
-- anything is covered. Returns the covered spans, packed.
insert into coverage as c (instrument_id, timeframe) values ($1, $2)
on conflict (instrument_id, timeframe) do update set version = c.version
returning (select string_agg(timestamptz_send(lower(r)) || timestamptz_send(upper(r)), ''::bytea order by r)
           from unnest(covered) r) as covered;

-- name: fetch_retries_take
-- Deletes the retries of a series, and returns them.
delete from fetch_retries where instrument_id = $1 and timeframe = $2
returning tries, retry_at,
  (select string_agg(timestamptz_send(lower(r)) || timestamptz_send(upper(r)), ''::bytea order by r) from unnest(spans) r) as spans;

-- name: fetch_retries_put
insert into fetch_retries (instrument_id, timeframe, tries, retry_at, spans)
select $1, $2, x.tries, ms(x.at), range_agg(tstzrange(ms(x.since), ms(x.until)))
from unnest($3::int4[], $4::int8[], $5::int8[], $6::int8[]) x (tries, at, since, until) group by x.tries, x.at;

-- name: coverage_hold
-- Locks the coverage of one series until the transaction ends, and returns its spans, packed.
select (select string_agg(timestamptz_send(lower(r)) || timestamptz_send(upper(r)), ''::bytea order by r)
        from unnest(c.covered) r) as covered
from coverage c where c.instrument_id = $1 and c.timeframe = $2 for update;

-- name: coverage_withdraw
-- Raises the revision, because final candles may have changed, and publishes the change to all processes.
with published as (
  insert into changes (instrument_ids, corrected) values (array[$1::int4], array['empty'::tstzrange]) returning xid),
retried as (delete from fetch_retries where instrument_id = $1 and timeframe = $2),
withdrawn as (
  update coverage c
  set covered = c.covered - x.spans, version = c.version + 1, revision = c.revision + 1, updated_at = now()
  from (select coalesce(range_agg(tstzrange(ms(s.since),
                                            ms(s.until))), '{}') as spans
        from unnest($3::int8[], $4::int8[]) s (since, until)) x
  where c.instrument_id = $1 and c.timeframe = $2)
select xid::text from published;

-- name: withdrawal_add
insert into coverage_withdrawals (instrument_id, timeframe, span, uncovered, candles, reason, lost)
select $1, $2, tstzrange(ms($3::int8), ms($4::int8)), $5::int8 * interval '1 ms', $6, $7,
       coalesce(range_agg(tstzrange(ms(l.since), ms(l.until))), '{}')
from unnest($8::int8[], $9::int8[]) l (since, until);

-- name: changes_after
-- Returns for each timeframe the entries of two logs after given ids, packed: the openings of corrected candles, and the edges
-- of withdrawn spans.
select x.tf as timeframe,
  (select string_agg(timestamptz_send(k."timestamp"), ''::bytea) from (
     select "timestamp" from corrections
     where instrument_id = $1 and timeframe = x.tf and id > x.correction order by id limit $5) k) as corrected,
  (select string_agg(timestamptz_send(lower(l.r)) || timestamptz_send(upper(l.r)), ''::bytea) from (
     select unnest(lost) as r from coverage_withdrawals
     where instrument_id = $1 and timeframe = x.tf and id > x.withdrawal limit $5) l) as lost
from unnest($2::text[], $3::int8[], $4::int8[]) x (tf, correction, withdrawal);

-- name: withdrawals_newest
select i.market, i.provider, i.symbol, w.timeframe, w.span, (extract(epoch from w.uncovered) * 1000)::int8 as uncovered,
       w.candles, w.reason, w.at
from coverage_withdrawals w join instruments i on i.id = w.instrument_id
where ($1::text is null or i.market = $1) and ($2::text is null or i.provider = $2) and ($3::text is null or i.symbol like $3)
order by w.id desc limit $4;

-- name: openings_within
-- Returns the openings of the stored candles of a series, and the source of each, packed.
select string_agg(timestamptz_send(d."timestamp") || d.source::text::bytea, ''::bytea order by d."timestamp") as packed
from ohlcv_data d
where d.instrument_id = $1 and d.timeframe = $2 and d."timestamp" >= ms($3::int8)
  and d."timestamp" < ms($4::int8);

-- name: fillers_imported
-- Returns the oldest imported candles without a trade; nothing if no candle of the series has a volume.
select (extract(epoch from d."timestamp") * 1000)::int8 as opened from ohlcv_data d
where d.instrument_id = $1 and d.timeframe = $2 and d.source = 'i' and d.volume = 0 and d.open = d.close and d.high = d.low
  and d."timestamp" > ms($3::int8)
  and exists (select from ohlcv_data o where o.instrument_id = $1 and o.timeframe = $2 and o.volume > 0)
order by d."timestamp" limit $4;

-- name: imports_exist
select exists (select from ohlcv_data where instrument_id = $1 and timeframe = $2 and source = 'i') as found;

-- name: timeframes_covered
select timeframe from coverage where instrument_id = $1 and not isempty(covered) order by timeframe;

-- name: upgrade_open
select t.instrument_id, t.timeframe, t.step, t.noted_at, t.reached, i.timezone, i.market, i.provider
from upgrade_tasks t join instruments i on i.id = t.instrument_id
where t.done_at is null and t.step = any ($1::text[])
order by t.instrument_id, t.timeframe, array_position($1::text[], t.step);

-- name: taint_note
insert into taints (market, provider, name) values ($1, $2, $3) on conflict do nothing returning true;

-- name: series_covered
select c.instrument_id, c.timeframe, i.symbol from coverage c join instruments i on i.id = c.instrument_id
where i.market = $1 and i.provider = $2 and not isempty(c.covered) order by 1, 2;

-- name: upgrade_add
insert into upgrade_tasks (instrument_id, timeframe, step) select i, tf, $3 from unnest($1::int4[], $2::text[]) x (i, tf)
on conflict (instrument_id, timeframe, step) do update set noted_at = now(), done_at = null, reached = null;

-- name: upgrade_advance
update upgrade_tasks set reached = ms($4::int8) where instrument_id = $1 and timeframe = $2 and step = $3;

-- name: upgrade_take
-- Locks a task until the transaction ends; returns nothing if it is done.
select true from upgrade_tasks where instrument_id = $1 and timeframe = $2 and step = $3 and done_at is null for update;

-- name: upgrade_close
update upgrade_tasks set done_at = now() where instrument_id = $1 and timeframe = $2 and step = $3 and done_at is null;

-- name: upgrade_counts
select step, count(*) as tasks, count(done_at) as done from upgrade_tasks group by step order by step;

-- name: withdrawal_counts
select reason, count(*) as withdrawals, (extract(epoch from sum(uncovered)) * 1000)::int8 as uncovered, sum(candles) as candles
from coverage_withdrawals group by reason order by reason;

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
-- Saves only if the stored config was last saved at $3 (null: always). `updated_at` is in whole milliseconds, because the API
-- prints no more, and is later with each save.
insert into user_configs as c (user_id, config, updated_at)
select $1, $2::text::json, date_trunc('milliseconds', clock_timestamp())
where $3::timestamptz is null or exists (select from user_configs where user_id = $1)
on conflict (user_id) do update
set config = excluded.config, updated_at = greatest(excluded.updated_at, c.updated_at + interval '1 ms')
where $3::timestamptz is null or c.updated_at = $3
returning updated_at;

-- name: refresh_begin
-- $1 is the user, $2 the version, $3 the hash, $4 the seconds to live. Returns nothing if the user was disabled or changed meanwhile.
with swept as (delete from refresh_families where user_id = $1 and expires_at < now()),
opened as (
  insert into refresh_families (user_id, version, expires_at)
  select id, version, now() + $4::float8 * interval '1 s' from users where id = $1 and version = $2 and not disabled
  returning id)
insert into refresh_tokens (hash, family) select $3, id from opened returning family;

-- name: refresh_rotate
-- If several calls use a token at once, one updates the row; the others wait for it, and then find the token used.
with used as (
  update refresh_tokens t set used_at = now(), successor = $2
  from refresh_families f join users u on u.id = f.user_id
  where t.hash = $1 and t.used_at is null and f.id = t.family
    and f.revoked_at is null and f.expires_at > now() and f.version = u.version and not u.disabled
  returning t.family, u.*),
issued as (insert into refresh_tokens (hash, family) select $2, family from used)
select * from used;

-- name: refresh_refuse
-- Returns why the token was not rotated. A use long after the first one ends the family: one of its two holders is a thief.
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

-- name: claim_take
select claim_span($1, $2, tstzrange(ms($3), ms($4)), $5, $6);

-- name: claim_drop
delete from claims where id = $1;

-- name: claims_drop
delete from claims where holder = $1;

-- name: claims_renew
update claims set expires_at = now() + $2::float8 * interval '1 s' where id = any ($1::int8[]);

-- name: instruments_named
select * from instruments i where market = $1 and provider = $2 and ($3::text[] is null or symbol = any ($3)) order by symbol;

-- name: instruments_by_id
select * from instruments i where id = any ($1::int4[]);

-- name: candles_count_within
select count(*) from unnest($3::int8[], $4::int8[]) x (since, until) join ohlcv_data d
  on d.instrument_id = $1 and d.timeframe = $2 and d."timestamp" >= ms(x.since) and d."timestamp" < ms(x.until);

-- name: candles_count
-- Counts the buckets of an aggregate outside the given spans.
select count(*) from {relation} d where d.instrument_id = $1 and not exists (
  select from unnest($2::int8[], $3::int8[]) x (since, until) where d.{stamp} >= ms(x.since) and d.{stamp} < ms(x.until));

-- name: candles_count_up_to
-- Counts the candles that open at an instant or later, of all these series together; of each series it counts at most $4.
select coalesce(sum(n), 0)::int8 as count
from unnest($1::int4[], $2::text[], $3::int8[]) q (i, tf, since)
cross join lateral (
  select count(*) as n from (
    select from {relation} where instrument_id = q.i {filter} and {stamp} >= ms(q.since) limit $4) s) c;

-- name: fetches_of
select at, asked, rows, outcome, milliseconds from fetch_log where instrument_id = $1 and timeframe = $2 order by at desc limit $3;

-- name: fetched_at
-- Returns when a call last fetched a part of each span, in minutes or in the timeframe itself.
select (select max(f.at) from fetch_log f
        where f.instrument_id = q.i and f.timeframe in ('1m', q.tf) and f.outcome in ('ok', 'bad rows')
          and f.asked && tstzrange(ms(q.since), ms(q.until))) as at
from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) with ordinality q (i, tf, since, until, k) order by q.k;

-- name: leases_take
-- Acquires free leases and renews ours, in one order, and returns ours with their epochs. It does not touch the leases of other
-- holders: a write under a lease locks its row, and this would wait for it.
insert into leases as l (name, holder, expires_at, epoch)
select x, $2, now() + $3::float8 * interval '1 s', nextval('lease_epochs') from unnest($1::text[]) x
where not exists (select from leases o where o.name = x and o.holder <> $2 and o.expires_at >= now()) order by x
on conflict (name) do update
set holder = excluded.holder, expires_at = excluded.expires_at,
    epoch = case l.holder when excluded.holder then l.epoch else excluded.epoch end
where l.holder = excluded.holder or l.expires_at < now()
returning name, epoch;

-- name: leases_free
update leases set expires_at = '-infinity' where name = any ($1::text[]) and holder = $2;

-- name: follow
insert into follows (instrument_id, timeframe, zone, process, expires_at)
select i, tf, z, $4, now() + $5::float8 * interval '1 s' from unnest($1::int4[], $2::text[], $3::text[]) x (i, tf, z) order by i, tf, z
on conflict (instrument_id, timeframe, zone, process) do update set expires_at = excluded.expires_at;

-- name: unfollow
delete from follows where process = $1 and (instrument_id, timeframe, zone) in (select * from unnest($2::int4[], $3::text[], $4::text[]));

-- name: follows_all
-- Returns all followed topics. A tracked series is a topic at 1m even if no process follows it.
select f.instrument_id, f.timeframe, f.zone, array_agg(f.process) as processes, i.market, i.provider
from follows f join instruments i on i.id = f.instrument_id where f.expires_at > now() group by 1, 2, 3, 5, 6
union all
select t.instrument_id, '1m', 'UTC', '{}', i.market, i.provider
from tracked t join instruments i on i.id = t.instrument_id where i.listed and i.active;

-- name: follows_sweep
delete from follows where expires_at < now() - interval '1 minute';

-- name: live_open
-- Opens topics and returns their positions. A topic that fell more than $8 seconds behind restarts at its edge of $7, and its
-- sequence number goes up by one, so that its followers notice that they missed events.
with held as (select from leases where name = $1 and epoch = $2 and holder = $3 and expires_at > now() for share)
insert into live_topics as t (instrument_id, timeframe, zone, edge, epoch, corrected)
select i, tf, z, ms(edge), $2, coalesce((select max(id) from corrections), 0)
from unnest($4::int4[], $5::text[], $6::text[], $7::int8[]) x (i, tf, z, edge) where exists (select from held) order by i, tf, z
on conflict (instrument_id, timeframe, zone) do update
set epoch = excluded.epoch, updated_at = now(),
    seq = t.seq + (t.edge < excluded.edge - $8::float8 * interval '1 s')::int,
    corrected = case when t.edge < excluded.edge - $8::float8 * interval '1 s' then excluded.corrected else t.corrected end,
    edge = case when t.edge < excluded.edge - $8::float8 * interval '1 s' then excluded.edge else t.edge end
where t.epoch <= excluded.epoch
returning instrument_id, timeframe, zone, seq, edge, corrected;

-- name: live_append
-- Counts closed or corrected candles under lease $1 at epoch $2. The lease row is share-locked until commit: a successor
-- takes over before this write, which then writes nothing, or after it. The write is idempotent: a step applies to a topic that
-- is at the step's `seq`, and changes nothing if it has been applied already. Returns a row for each topic of ours: its sequence
-- number after the step, or null if other events were appended meanwhile.
with held as (select from leases where name = $1 and epoch = $2 and holder = $3 and expires_at > now() for share),
given as (
  select i, tf, z, seq, ms(edge) as edge, corrected, count
  from unnest($4::int4[], $5::text[], $6::text[], $7::int8[], $8::int8[], $9::int8[], $10::int4[])
    x (i, tf, z, seq, edge, corrected, count)
  where exists (select from held)),
-- Locks the topics first, to see the result of a write of the same step that is about to commit.
found as (
  select t.instrument_id, t.timeframe, t.zone, t.seq, g.edge, g.corrected, g.count,
    t.seq = g.seq and (t.edge < g.edge or t.corrected < g.corrected) as applies,
    t.seq = g.seq + g.count and t.edge >= g.edge and t.corrected >= g.corrected as counted
  from given g join live_topics t on t.instrument_id = g.i and t.timeframe = g.tf and t.zone = g.z
  where t.epoch <= $2 for update of t),
moved as (
  update live_topics t
  set seq = f.seq + f.count, edge = greatest(t.edge, f.edge), corrected = greatest(t.corrected, f.corrected), epoch = $2,
      updated_at = now()
  from found f
  where f.applies and t.instrument_id = f.instrument_id and t.timeframe = f.timeframe and t.zone = f.zone),
appended as (
  insert into live_events (instrument_id, timeframe, zone, seq, kind, opened)
  select f.instrument_id, f.timeframe, f.zone, f.seq + e.n, e.kind::"char", ms(e.opened)
  from found f
  join unnest($11::int4[], $12::text[], $13::text[], $14::int4[], $15::text[], $16::int8[]) e (i, tf, z, n, kind, opened)
    on e.i = f.instrument_id and e.tf = f.timeframe and e.z = f.zone
  where f.applies)
select instrument_id, timeframe, zone, case when applies then seq + count when counted then seq end as seq from found;

-- name: live_corrections
-- Returns the corrected minutes of instruments $1 after the row $2 of each.
select c.instrument_id, c.id, c."timestamp" from unnest($1::int4[], $2::int8[]) x (i, after)
join corrections c on c.instrument_id = x.i and c.timeframe = '1m' and c.id > x.after order by c.id;

-- name: live_state
select t.instrument_id, t.timeframe, t.zone, t.seq, t.edge, t.epoch from live_topics t
where (t.instrument_id, t.timeframe, t.zone) in (select * from unnest($1::int4[], $2::text[], $3::text[]));

-- name: live_missed
select seq, kind::text, opened from live_events
where instrument_id = $1 and timeframe = $2 and zone = $3 and seq > $4 order by seq limit $5;

-- name: live_earliest
select min(opened) as opened from live_events where instrument_id = $1 and timeframe = $2 and zone = $3 and seq > $4;

-- name: live_sweep
delete from live_events where at < now() - interval '10 minutes';

-- name: rows_beside
-- Returns the stored rows of one series around given instants, `count` before or from each on: openings and sources, packed.
select (select string_agg(timestamptz_send(n."timestamp") || n.source::text::bytea, ''::bytea order by n."timestamp") from (
  (select d."timestamp", d.source from ohlcv_data d
   where q.before and d.instrument_id = $1 and d.timeframe = $2 and d."timestamp" < ms(q.at)
   order by d."timestamp" desc limit q.count)
  union all
  (select d."timestamp", d.source from ohlcv_data d
   where not q.before and d.instrument_id = $1 and d.timeframe = $2 and d."timestamp" >= ms(q.at)
   order by d."timestamp" limit q.count)) n) as packed
from unnest($3::int8[], $4::bool[], $5::int4[]) with ordinality q (at, before, count, k) order by q.k;
