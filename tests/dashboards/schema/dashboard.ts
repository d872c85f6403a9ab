/**
 * What a dashboard of ours may hold: Grafana's types, put together for plain JSON.
 *
 * Grafana's own type leaves open what depends on the type of a panel: its options, its fields, what
 * overrides set. Here each type of panel that we use has its own, so that a key that Grafana does not
 * know, or a value that it cannot use, is an error of the compiler.
 */

import type { Dashboard, DataTransformerConfig, FieldConfig, Panel } from "@grafana/schema";
import type * as heatmap from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as stateTimeline from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

/** A type with the values of its enumerations in place of their names, as JSON has them. */
type Plain<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? Plain<Item>[]
    : T extends object
      ? { [Key in keyof T]: Plain<T[Key]> }
      : T;

/** A column's or series' link: `DataLink` of @grafana/data. */
interface Link {
  title: string;
  url: string;
  targetBlank?: boolean;
}

type Common = Plain<Omit<FieldConfig, "custom" | "links">> & { links?: Link[] };

/** One thing that an override sets, by the path of what it sets. */
type Property<Custom> =
  | { [Key in keyof Common]-?: { id: Key; value: NonNullable<Common[Key]> } }[keyof Common]
  | {
      [Key in keyof Custom & string]-?: {
        id: `custom.${Key}`;
        value: NonNullable<Plain<Custom[Key]>>;
      };
    }[keyof Custom & string];

interface Override<Custom> {
  matcher: { id: "byName" | "byRegexp" | "byFrameRefID" | "byType"; options: string };
  properties: Property<Custom>[];
}

interface Fields<Custom> {
  defaults: Common & { custom?: Plain<Custom> };
  overrides: Override<Custom>[];
}

/** A query: `PrometheusDataQuery`, which the package does not have. */
interface Query {
  datasource: { type: "prometheus"; uid: "${datasource}" };
  editorMode: "code";
  exemplar?: boolean;
  expr: string;
  format: "time_series" | "table" | "heatmap";
  hide: boolean;
  instant: boolean;
  interval?: string;
  legendFormat: string;
  range: boolean;
  refId: string;
}

/** Those of @grafana/data's `DataTransformerID` that we use. */
interface Transformation extends Omit<DataTransformerConfig, "id"> {
  id: "merge" | "organize";
}

interface Shown<Type extends string, Options, Custom>
  extends Plain<Omit<Panel, "fieldConfig" | "options" | "targets" | "transformations" | "type">> {
  type: Type;
  options: Plain<Options>;
  fieldConfig: Fields<Custom>;
  targets: Query[];
  transformations?: Plain<Transformation>[];
}

type AnyPanel =
  | Shown<"heatmap", heatmap.Options, heatmap.FieldConfig>
  | Shown<"stat", stat.Options, Record<never, never>>
  | Shown<"state-timeline", stateTimeline.Options, stateTimeline.FieldConfig>
  | Shown<"table", table.Options, table.FieldConfig>
  | Shown<"timeseries", timeseries.Options, timeseries.FieldConfig>;

interface Row {
  type: "row";
  title: string;
  collapsed: boolean;
  gridPos: { h: 1; w: 24; x: 0; y: number };
  id: number;
  panels: AnyPanel[];
}

type Annotations = NonNullable<NonNullable<Dashboard["annotations"]>["list"]>;

/** What Prometheus' data source adds to an annotation: `PromQueryAnnotation`, in no package. */
interface OfPrometheus {
  expr?: string;
  step?: string;
  tagKeys?: string;
  textFormat?: string;
  titleFormat?: string;
  useValueForTime?: boolean;
}

export interface Shipped extends Plain<Omit<Dashboard, "annotations" | "panels">> {
  annotations: { list: (Plain<Annotations[number]> & OfPrometheus)[] };
  panels: (AnyPanel | Row)[];
}
