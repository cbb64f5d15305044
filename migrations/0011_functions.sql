-- An instant from milliseconds since the epoch. STABLE, as what it is made of: PostgreSQL inlines it, so an index is searched by it.
create function ms(instant int8) returns timestamptz language sql stable parallel safe
return timestamptz 'epoch' + instant * interval '1 ms';

-- Names that say what the functions do. Those of a layout are only in the databases of that layout.
alter function hold_aggregates(timestamptz[]) rename to lock_aggregates_shared;
alter function claim_aggregates() rename to lock_aggregates_exclusive;

do $rename$
declare
  renamed regprocedure;
begin
  if to_regprocedure('aggregates_written(int[], timestamptz[], timestamptz[], boolean)') is not null then
    alter function aggregates_written(int[], timestamptz[], timestamptz[], boolean) rename to update_aggregates;
  end if;
  if to_regprocedure('aggregates_claim(timestamptz)') is not null then
    alter function aggregates_claim(timestamptz) rename to begin_refresh;
  end if;
  -- Their bodies call the other two by name.
  for renamed in
    select p from unnest(array[to_regprocedure('update_aggregates(int[], timestamptz[], timestamptz[], boolean)'),
                               to_regprocedure('begin_refresh(timestamptz)')]) p where p is not null
  loop
    execute replace(replace(pg_get_functiondef(renamed), 'hold_aggregates(', 'lock_aggregates_shared('),
                    'claim_aggregates(', 'lock_aggregates_exclusive(');
  end loop;
end $rename$;
