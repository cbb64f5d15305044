-- The wide shape of each aggregate, for people with psql.

do $make$
declare
  name text;
begin
  for name in select view_name from preaggregation_configs loop
    execute format($sql$
      create view %I as
      select i.market, i.provider, i.symbol, p.target_timeframe as timeframe, a.bucketed_time, i.base_currency, i.quote_currency,
             a.open, a.high, a.low, a.close, a.volume
      from %I a join instruments i on i.id = a.instrument_id join preaggregation_configs p on p.view_name = %L
      $sql$, name || '_flat', name, name);
  end loop;
end $make$;
