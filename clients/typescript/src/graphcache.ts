import type { KeyingConfig } from '@urql/exchange-graphcache'
import { embeddedTypes } from './documents.js'

/** For `cacheExchange({ keys })`: types without an `id` belong to the object that holds them. */
export const keys: KeyingConfig = Object.fromEntries(embeddedTypes.map((type) => [type, () => null]))
