// Names for the parts of the operations that the views share.
import type { BackfillsQuery, StoredSeriesQuery } from '@candlegraph/client'

export type StoredSeriesNode = NonNullable<StoredSeriesQuery['seriesList']>['nodes'][number]
export type GapFields = StoredSeriesNode['gaps'][number]
export type SpanFields = StoredSeriesNode['covered'][number]
export type Job = NonNullable<BackfillsQuery['backfills']>['nodes'][number]
