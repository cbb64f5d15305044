-- What the provider says of a symbol beyond its names. A list that is stored already lacks it, so it is due.
alter table instruments
  add has_volume boolean not null default true,
  add kind text,
  add contract_size float8,
  add price_increment float8,
  add quantity_increment float8;
update listings set listed_at = 'epoch';

-- Faults of older versions of a provider that this database knows of. A fault that is new here makes a task of each series
-- of the provider that it affects.
create table taints (
  market   text not null,
  provider text not null,
  name     text not null,
  noted_at timestamptz not null default now(),
  primary key (market, provider, name)
);

-- 'coverage': coverage without a candle is taken back. 'volume': stored volumes are read again, oldest first; those before
-- `reached` are done.
alter table upgrade_tasks
  drop constraint upgrade_tasks_step_check,
  add constraint upgrade_tasks_step_check check (step in ('ahead', 'holes', 'last', 'fillers', 'coverage', 'volume')),
  add reached timestamptz;
