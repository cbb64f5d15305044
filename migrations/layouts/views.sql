-- The wide shape of each aggregate, for people with psql.

do $make$
declare
  name text;
begin
  foreach name in array array['ohlcv_5min', 'ohlcv_15min', 'ohlcv_30min', 'ohlcv_1h', 'ohlcv_4h', 'ohlcv_1d', 'ohlcv_1w',
                              'ohlcv_1mon', 'ohlcv_1y'] loop
    execute format($sql$
      create view %I as
      select i.market, i.provider, i.symbol, p.target_timeframe as timeframe, a.bucketed_time, i.base_currency, i.quote_currency,
             a.open, a.high, a.low, a.close, a.volume
      from %I a join instruments i on i.id = a.instrument_id join preaggregation_configs p on p.view_name = %L
      $sql$, name || '_flat', name, name);
  end loop;
end $make$;
