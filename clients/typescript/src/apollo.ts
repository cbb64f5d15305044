import type { FieldPolicy, TypePolicies } from '@apollo/client'
import { embeddedTypes, possibleTypes } from './documents.js'

/** Lists that `fetchMore` continues with `after`: the pages become one list. */
function pages(...keyArgs: string[]): FieldPolicy<{ nodes?: readonly unknown[]; edges?: readonly unknown[] }> {
  return {
    keyArgs,
    merge: (existing, incoming, { args }) => (args?.['after'] ? {
      ...incoming,
      ...(incoming.nodes ? { nodes: [...(existing?.nodes ?? []), ...incoming.nodes] } : {}),
      ...(incoming.edges ? { edges: [...(existing?.edges ?? []), ...incoming.edges] } : {}),
    } : incoming),
  }
}

/**
 * For `new InMemoryCache({ typePolicies, possibleTypes })`. What has an `id` is cached by it, and every `id` is unique over
 * all types. The others belong to the object that holds them, and the selections of one and the same range are merged.
 */
export const typePolicies: TypePolicies = {
  ...Object.fromEntries(embeddedTypes.map((type) => [type, { keyFields: false, merge: type === 'CandleSeries' }])),
  Query: {
    fields: {
      symbols: pages('market', 'provider', 'search', 'includeInactive'),
      backfills: pages('state'),
      tracked: pages(),
    },
  },
}

export { possibleTypes }
