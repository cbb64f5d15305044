-- Who is fetching what right now, jobs that fill history, and series that are kept complete.

-- Spans that some process is asking a provider for. A claim whose process died ends by itself.
create table claims (
  id            bigint generated always as identity primary key,
  instrument_id int not null,
  timeframe     text not null,
  span          tstzrange not null,
  holder        uuid not null,
  expires_at    timestamptz not null
);
create index on claims (instrument_id, timeframe);
create index on claims (holder);

create function claim_span(instrument int, tf text, wanted tstzrange, who uuid, seconds float8) returns bigint language plpgsql as $f$
-- The number of a new claim; null where another one overlaps it. Each statement sees what was committed before it began,
-- so the lock has to be a statement of its own.
declare
  claimed bigint;
begin
  perform pg_advisory_xact_lock(hashtextextended(tf, instrument));
  delete from claims c where c.instrument_id = instrument and c.timeframe = tf and c.expires_at < now();
  if exists (select from claims c where c.instrument_id = instrument and c.timeframe = tf and c.span && wanted) then
    return null;
  end if;
  insert into claims (instrument_id, timeframe, span, holder, expires_at)
  values (instrument, tf, wanted, who, now() + seconds * interval '1 s') returning id into claimed;
  return claimed;
end $f$;

create table leases (
  name       text primary key,
  holder     uuid not null,
  epoch      bigint not null default 1,
  expires_at timestamptz not null
);

create table backfills (
  id          bigint generated always as identity primary key,
  market      text not null,
  provider    text not null,
  symbols     text[] not null,
  timeframe   text not null,
  span        tstzrange not null,
  priority    int not null default 0,
  state       text not null default 'QUEUED' check (state in ('QUEUED', 'RUNNING', 'DONE', 'CANCELLED', 'FAILED')),
  created_at  timestamptz not null default now(),
  created_by  text,
  started_at  timestamptz,
  ended_at    timestamptz,
  last_error  text
);
create index on backfills (state, priority desc, id);

-- A stretch of one symbol's history, fetched page by page by one worker at a time. Without a job: a hole of a tracked
-- series, or what is to be read `again` of it.
create table backfill_parts (
  id            bigint generated always as identity primary key,
  backfill_id   bigint references backfills (id) on delete cascade,
  instrument_id int not null references instruments (id),
  timeframe     text not null,
  span          tstzrange not null,
  again         boolean not null default false,
  priority      int not null,
  pieces        int not null,           -- upstream calls it was reckoned to take
  pieces_done   int not null default 0,
  calls         int not null default 0,
  candles       bigint not null default 0,
  state         text not null default 'OPEN' check (state in ('OPEN', 'DONE', 'FAILED', 'CANCELLED')),
  reached       timestamptz not null,    -- what lies before it in `span` is done with
  holes         jsonb not null default '[]',  -- of that, what cannot be had: [since ms, until ms, reason, detail]
  attempts      int not null default 0,  -- failures in a row
  next_at       timestamptz not null default now(),
  claimed_by    uuid,
  claimed_until timestamptz,
  ended_at      timestamptz
);
create index on backfill_parts (backfill_id);
create index on backfill_parts (priority desc, id) where state = 'OPEN';
create index on backfill_parts (instrument_id) where backfill_id is null;

create table tracked (
  instrument_id int primary key references instruments (id),
  since         timestamptz not null,
  added_by      text,
  checked_at    timestamptz not null default '-infinity',  -- whoever moves it on looks for holes
  complete_at   timestamptz,  -- when it was last seen without a hole
  reread_at     timestamptz   -- when its last days were last read again
);
create index on tracked (checked_at);
