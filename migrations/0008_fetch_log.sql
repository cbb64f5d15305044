-- What is older than a month is forgotten, a little at a time.
create index on fetch_log (at);
