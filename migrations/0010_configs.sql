-- Two relations for one timeframe would leave it to chance which of them answers.
alter table preaggregation_configs add unique (target_timeframe);
