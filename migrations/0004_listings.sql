-- When each provider's list of symbols was last read in full, so that a restart need not read it again.

create table listings (
  market    text not null,
  provider  text not null,
  listed_at timestamptz not null,
  primary key (market, provider)
);

-- Lists that were read before this was noted: kept, and due.
insert into listings (market, provider, listed_at)
select distinct market, provider, timestamptz 'epoch' from instruments where listed;

-- What a search looks at: symbol and name, folded by the program, for what PostgreSQL knows of case depends on its locale.
-- For now as well as it can; the next list that is read does it right.
alter table instruments add folded text;
update instruments set folded = lower(symbol || coalesce(' ' || name, ''));
alter table instruments alter folded set not null;
