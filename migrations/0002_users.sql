-- Accounts: who may sign in, what their front ends keep for them, and the refresh tokens that are out.

create table users (
  id            int generated always as identity primary key,
  name          text not null,
  password_hash text not null,
  role          text not null check (role in ('viewer', 'operator', 'admin')),
  disabled      boolean not null default false,
  version       int not null default 1,  -- counted up when a password changes or an account is disabled: older tokens end
  created_at    timestamptz not null default now(),
  changed_at    timestamptz not null default now()
);
create unique index users_by_name on users (lower(name));

-- `json` keeps the text as it came, to the order of the keys; nobody asks what is in it.
create table user_configs (
  user_id    int primary key references users (id) on delete cascade,
  config     json not null,
  updated_at timestamptz not null
);

-- One sign-in and all that was refreshed from it. It is ended here, in one row, so that a token that is issued at the
-- same moment ends with it.
create table refresh_families (
  id         bigint generated always as identity primary key,
  user_id    int not null references users (id) on delete cascade,
  version    int not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz
);
create index on refresh_families (user_id, expires_at);

-- The SHA-256 of each token: 256 random bits need no salt. A used one is kept, for its second use gives a thief away.
create table refresh_tokens (
  hash      bytea primary key,
  family    bigint not null references refresh_families (id) on delete cascade,
  issued_at timestamptz not null default now(),
  used_at   timestamptz,
  successor bytea
);
create index on refresh_tokens (family);
