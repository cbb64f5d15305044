-- What is followed live, by whom, and what has happened to it: how every process tells its listeners the same.

-- Of every lease alike, so that a later leader of a topic is known by it whatever name the lease has.
create sequence lease_epochs;

create table follows (
  instrument_id int not null references instruments (id),
  timeframe     text not null,
  zone          text not null,
  process       uuid not null,
  expires_at    timestamptz not null,
  primary key (instrument_id, timeframe, zone, process)
);

-- A followed series: how many closed and corrected candles there have been, up to where they have been counted, and the
-- last of the corrections among them.
create table live_topics (
  instrument_id int not null references instruments (id),
  timeframe     text not null,
  zone          text not null,
  seq           bigint not null default 0,
  edge          timestamptz not null,
  corrected     bigint not null default 0,
  epoch         bigint not null default 0,
  updated_at    timestamptz not null default now(),
  primary key (instrument_id, timeframe, zone)
) with (fillfactor = 50);

-- The last minutes of it, for whoever missed a message. C: closed; X: corrected; R: too much happened to tell.
create table live_events (
  instrument_id int not null,
  timeframe     text not null,
  zone          text not null,
  seq           bigint not null,
  kind          "char" not null,
  opened        timestamptz not null,
  at            timestamptz not null default now(),
  primary key (instrument_id, timeframe, zone, seq)
);
create index on live_events (at);
create index on corrections (instrument_id, timeframe, id);
