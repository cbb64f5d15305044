// The tabs of a first visit. GraphiQL names a tab after its operation.

const btc = { market: 'demo', provider: 'synthetic', symbol: 'BTC/USD' }
const eth = { ...btc, symbol: 'ETH/USD' }

const markets = {
  query: `\
# What this server can answer: its markets, and the
# providers in each. Ctrl-Enter runs it.
# The other tabs go on from here.
query Markets {
  markets {
    id
    name
    description
    timezone
    providers {
      id
      name
      description
      state
      live
      timeframes
    }
  }
}
`,
}

const candles = {
  query: `\
# The newest 24 hourly candles, oldest first. What is
# not stored yet is fetched from the provider.
# For older ones, pass nextBefore as "before".
query Candles(
  $market: ID!
  $provider: ID!
  $symbol: String!
  $timeframe: Timeframe!
  $limit: Int
  $before: Timestamp
) {
  candles(
    market: $market
    provider: $provider
    symbol: $symbol
    timeframe: $timeframe
    limit: $limit
    before: $before
  ) {
    nodes {
      timestamp
      time
      open
      high
      low
      close
      volume
      closed
      synthetic
    }
    complete
    gaps {
      since
      until
      reason
      detail
    }
    sources {
      since
      until
      source
      fetchedAt
    }
    hasMore
    nextBefore
  }
}
`,
  variables: { ...btc, timeframe: '1h', limit: 24 },
}

const liveCandles = {
  query: `\
# Live candles over a websocket: UPDATE while a candle
# forms, CLOSE when it is final. The answer pane shows
# the latest event; run again to stop.
# Add "since" (milliseconds) to the variables to get
# the history first, without gap or repeat.
subscription LiveCandles(
  $market: ID!
  $provider: ID!
  $symbol: String!
  $timeframe: Timeframe!
  $since: Timestamp
) {
  candles(
    market: $market
    provider: $provider
    symbol: $symbol
    timeframe: $timeframe
    since: $since
  ) {
    kind
    seq
    caughtUp
    nodes {
      timestamp
      open
      high
      low
      close
      volume
      closed
    }
    resyncFrom
  }
}
`,
  variables: { ...btc, timeframe: '1m' },
}

const columnsForCharts = {
  query: `\
# The same candles as columns: equally long lists,
# smaller to send and ready for a chart.
query ColumnsForCharts(
  $market: ID!
  $provider: ID!
  $symbol: String!
  $timeframe: Timeframe!
  $limit: Int
) {
  candles(
    market: $market
    provider: $provider
    symbol: $symbol
    timeframe: $timeframe
    limit: $limit
  ) {
    symbol
    timeframe
    columns {
      timestamp
      open
      high
      low
      close
      volume
      closed
      synthetic
    }
    complete
    hasMore
    nextBefore
  }
}
`,
  variables: { ...btc, timeframe: '5m', limit: 288 },
}

const watchlist = {
  query: `\
# Many series in one request. One that fails is null
# and has its own error; the others still answer.
query Watchlist($series: [SeriesInput!]!, $limit: Int) {
  candlesBatch(series: $series, limit: $limit) {
    symbol
    timeframe
    nodes {
      timestamp
      open
      high
      low
      close
      volume
      closed
    }
    complete
  }
}
`,
  variables: { series: [{ ...btc, timeframe: '1h' }, { ...eth, timeframe: '1h' }], limit: 5 },
}

const symbols = {
  query: `\
# Search a provider's symbols.
# For the next page, pass endCursor as "after".
query Symbols(
  $market: ID!
  $provider: ID!
  $search: String
  $first: Int!
  $after: String
) {
  symbols(
    market: $market
    provider: $provider
    search: $search
    first: $first
    after: $after
  ) {
    totalCount
    nodes {
      id
      symbol
      name
      base
      quote
      active
      timezone
      firstAvailable
    }
    pageInfo {
      hasNextPage
      hasPreviousPage
      startCursor
      endCursor
    }
  }
}
`,
  variables: { market: 'demo', provider: 'synthetic', search: 'USD', first: 20 },
}

const coverageAndGaps = {
  query: `\
# How far to trust an answer: is the day complete, what
# is missing and why, and who answered which part.
# Asked for is 5 March 2024, UTC: "until" is the first
# moment that is not asked for.
query CoverageAndGaps(
  $market: ID!
  $provider: ID!
  $symbol: String!
  $timeframe: Timeframe!
  $since: Timestamp!
  $until: Timestamp!
) {
  candles(
    market: $market
    provider: $provider
    symbol: $symbol
    timeframe: $timeframe
    since: $since
    until: $until
  ) {
    complete
    gaps {
      since
      until
      reason
      detail
    }
    sources {
      since
      until
      source
      fetchedAt
    }
    nodes {
      timestamp
      time
      close
      volume
      synthetic
    }
  }
}
`,
  variables: { ...btc, timeframe: '1h', since: Date.UTC(2024, 2, 5), until: Date.UTC(2024, 2, 6) },
}

const backfills = {
  query: `\
# Fetch a month and follow it; this needs the role
# OPERATOR once there are accounts: sign in first.
# The id of the new backfill goes into the variables.
# The run button asks which operation to run.
mutation StartBackfill($input: BackfillInput!) {
  startBackfill(input: $input) {
    id
    state
    piecesTotal
  }
}

subscription FollowBackfill($id: ID!) {
  backfill(id: $id) {
    state
    piecesDone
    piecesTotal
    candlesWritten
    lastError
  }
}

query Coverage {
  coverage(market: "demo", provider: "synthetic", symbol: "ETH/USD") {
    covered { since until }
    holes { since until reason detail }
    rows
    lastFetches { at rows outcome milliseconds }
  }
}
`,
  variables: {
    input: { market: 'demo', provider: 'synthetic', symbols: ['ETH/USD'], since: '2024-03-01T00:00:00Z', until: '2024-04-01T00:00:00Z' },
  },
}

const signIn = {
  query: `\
# Sign in with an account that "candlegraph user add"
# made. Every tab, the chart and the console use the
# session from then on, until you sign out.
mutation SignIn($username: String!, $password: String!) {
  login(username: $username, password: $password) {
    token
    expiresAt
    refreshToken
    user {
      username
      roles
    }
  }
}
`,
  variables: { username: 'ada', password: '' },
}

const me = {
  query: `\
# Who am I? The tab before signs in.
# The run button asks which operation to run.
query Me {
  me {
    username
    roles
    config
    configUpdatedAt
  }
}

mutation SaveConfig($config: JSON!, $at: DateTime) {
  saveConfig(config: $config, ifUpdatedAt: $at) {
    config
    updatedAt
  }
}
`,
  variables: { config: { theme: 'dark', watchlist: ['BTC/USD', 'ETH/USD'] } },
}

const json = (value) => value && JSON.stringify(value, null, 2)

export const examples = [
  markets, candles, liveCandles, columnsForCharts, watchlist, symbols, coverageAndGaps, backfills, signIn, me,
].map(({ query, variables }) => ({ query, variables: json(variables) }))
