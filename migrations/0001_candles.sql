-- Instruments, their 1-minute (and native higher) candles, and the ledger of what is known about them.

create table instruments (
  id              int generated always as identity primary key,
  market          text not null,
  provider        text not null,
  symbol          text not null,
  name            text,
  base_currency   text,
  quote_currency  text,
  timezone        text not null default 'UTC',
  active          boolean not null default true,
  listed          boolean not null default false,  -- its provider names it; otherwise it came by import and only the store has it
  first_available timestamptz,
  ended_at        timestamptz,
  updated_at      timestamptz not null default now(),
  unique (market, provider, symbol)
);

-- `timeframe` and `source` fill the padding before the 8-byte columns: together they cost nothing.
create table ohlcv_data (
  instrument_id int not null references instruments (id),
  timeframe     text not null default '1m',
  source        "char" not null default 'a',
  "timestamp"   timestamptz not null,
  open          float8 not null,
  high          float8 not null,
  low           float8 not null,
  close         float8 not null,
  volume        float8 not null,
  primary key (instrument_id, timeframe, "timestamp")
);

-- What was asked upstream, answered in full and is final. A minute without a candle inside of it had no trade.
create table coverage (
  instrument_id int not null references instruments (id),
  timeframe     text not null,
  covered       tstzmultirange not null default '{}',
  version       bigint not null default 0,
  updated_at    timestamptz not null default now(),
  primary key (instrument_id, timeframe)
) with (fillfactor = 50);

create table fetch_log (
  id            bigint generated always as identity primary key,
  instrument_id int not null references instruments (id),
  timeframe     text not null,
  asked         tstzrange not null,
  rows          int not null,
  outcome       text not null,
  at            timestamptz not null default now(),
  milliseconds  int not null
);
create index on fetch_log (instrument_id, timeframe, at desc);

create view ohlcv_data_flat as
select i.market, i.provider, i.symbol, d.timeframe, d."timestamp", i.base_currency, i.quote_currency,
       d.open, d.high, d.low, d.close, d.volume,
       case d.source when 'a' then 'api' when 'i' then 'import' else d.source::text end as source
from ohlcv_data d join instruments i on i.id = d.instrument_id;
