-- Each writing transaction begins with its rows of `coverage`, whose key says that there are such instruments. To look once
-- more for every candle took more than half of the time of a COPY.
alter table ohlcv_data drop constraint ohlcv_data_instrument_id_fkey;
