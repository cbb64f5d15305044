-- Trading calendars: equally long columns of sessions, computed by storage/calendars.py and renewed each month.
create table calendars (
  name            text primary key,
  timezone        text not null,
  dates           int8[] not null,  -- days since 1970-01-01
  opens           int8[] not null,  -- these in milliseconds since the epoch, UTC
  closes          int8[] not null,
  break_starts    int8[] not null,
  break_ends      int8[] not null,
  extended_opens  int8[] not null,
  extended_closes int8[] not null,
  early           bool[] not null,
  computed_at     timestamptz not null default now()
);

-- `native_days`: whether the days of an instrument with a calendar are those of its provider, or folded from regular minutes.
-- It is decided once, when the instrument gets its calendar, and never changes.
alter table instruments add calendar text, add native_days boolean, add check (calendar is null or native_days is not null);

-- Gives instruments their calendars. Those with stored days keep their provider's; those with minutes only get days of these;
-- with nothing stored, `vouched` decides. Days that were answered before may have been of the other make: over the stored
-- minutes they count as withdrawn, so that clients fetch them again, and caches forget them.
create function gain_calendars(ids int4[], names text[], vouched boolean)
returns table (gained_count bigint, native bigint, withdrawn bigint) language plpgsql as $$
declare
  gained int4[];
begin
  with stored as (
    select x.id, x.name,
      exists (select from ohlcv_data d where d.instrument_id = x.id and d.timeframe = '1d') as days,
      exists (select from coverage c where c.instrument_id = x.id and c.timeframe = '1m' and not isempty(c.covered)) as minutes
    from unnest(ids, names) x (id, name)),
  changed as (
    update instruments i set calendar = s.name, native_days = s.days or (vouched and not s.minutes), updated_at = now()
    from stored s where i.id = s.id and i.calendar is null returning i.id)
  select coalesce(array_agg(id order by id), '{}') into gained from changed;

  insert into coverage (instrument_id, timeframe)
  select c.instrument_id, '1d' from coverage c
  where c.instrument_id = any (gained) and c.timeframe = '1m' and not isempty(c.covered)
  on conflict do nothing;
  update coverage c set revision = c.revision + 1, version = c.version + 1, updated_at = now()
  where c.instrument_id = any (gained);
  insert into coverage_withdrawals (instrument_id, timeframe, span, uncovered, candles, reason, lost)
  select c.instrument_id, '1d', range_merge(c.covered), interval '0', 0, 'its days are made of regular sessions since it has a calendar',
         c.covered
  from coverage c where c.instrument_id = any (gained) and c.timeframe = '1m' and not isempty(c.covered);
  get diagnostics withdrawn = row_count;
  if cardinality(gained) > 0 then
    insert into changes (instrument_ids, corrected) select gained, array_agg(tstzrange 'empty') from unnest(gained);
  end if;
  select count(*), count(*) filter (where i.native_days) into gained_count, native from instruments i where i.id = any (gained);
  return next;
end $$;

-- Stocks of Alpaca trade in New York's sessions, and its days are made of the regular ones.
select gain_calendars(array_agg(id), array_agg(text 'XNYS'), true) from instruments
where market = 'stocks' and (provider = 'alpaca' or provider like 'alpaca-%') having count(*) > 0;
