// Apollo Client 4: history by query, live candles by subscribeToMore, both in one cache.
import { ApolloClient, gql, HttpLink, InMemoryCache, split } from '@apollo/client'
import { GraphQLWsLink } from '@apollo/client/link/subscriptions'
import { getMainDefinition } from '@apollo/client/utilities'
import { HISTORY, LIVE, merge } from './candles.mjs'
import { connect } from './resuming.mjs'

// What has an `id` is cached by it. A CandleSeries has none: the selections of one and the same range are merged.
export const typePolicies = { CandleSeries: { keyFields: false, merge: true } }

export function createApollo(url) {
  const isSubscription = ({ query }) => getMainDefinition(query).operation === 'subscription'
  const live = new GraphQLWsLink(connect(url.replace(/^http/, 'ws')))
  return new ApolloClient({
    link: split(isSubscription, live, new HttpLink({ uri: url })),
    cache: new InMemoryCache({ typePolicies }),
  })
}

/** The query of a series, with its live candles; `useQuery` has the same `subscribeToMore`. */
export async function watch(client, variables) {
  const { data } = await client.query({ query: gql(HISTORY), variables })
  const query = client.watchQuery({ query: gql(HISTORY), variables })
  query.subscribeToMore({
    document: gql(LIVE),
    variables: { ...variables, since: data.candles.nodes.findLast(({ closed }) => closed)?.timestamp },
    onError: console.error,
    updateQuery({ candles }, { subscriptionData }) {
      return { candles: { ...candles, nodes: merge(candles.nodes, subscriptionData.data.candles.nodes) } }
    },
  })
  return query
}
