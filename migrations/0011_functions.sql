-- An instant from milliseconds since the epoch. STABLE, as what it is made of: PostgreSQL inlines it, so an index is searched by it.
create function ms(instant int8) returns timestamptz language sql stable parallel safe
return timestamptz 'epoch' + instant * interval '1 ms';
