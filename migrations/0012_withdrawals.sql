-- Coverage that was withdrawn, and what is checked once of the series of a database from before this table.

create table coverage_withdrawals (
  id            bigint generated always as identity primary key,
  instrument_id int not null references instruments (id),
  timeframe     text not null,
  span          tstzrange not null,      -- what was looked at
  uncovered     interval not null,       -- how much of it was covered and is not any more
  candles       int not null default 0,  -- how many candles in it were corrected or withdrawn
  reason        text not null,
  at            timestamptz not null default now()
);
create index on coverage_withdrawals (instrument_id);

-- 'ahead': coverage beyond `noted_at`. 'holes': long holes between imported candles. 'last': the last candle of each imported
-- run. 'fillers': imported minutes without a trade. The last two wait until the provider has started.
create table upgrade_tasks (
  instrument_id int not null references instruments (id),
  timeframe     text not null,
  step          text not null check (step in ('ahead', 'holes', 'last', 'fillers')),
  noted_at      timestamptz not null default now(),
  done_at       timestamptz,
  primary key (instrument_id, timeframe, step)
);
create index on upgrade_tasks (step) where done_at is null;

insert into upgrade_tasks (instrument_id, timeframe, step)
select c.instrument_id, c.timeframe, s.step
from coverage c cross join unnest(array['ahead', 'holes', 'last', 'fillers']) s (step)
where not isempty(c.covered) and (s.step <> 'ahead' or upper(c.covered) > now());
