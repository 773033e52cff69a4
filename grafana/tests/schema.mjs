// Holds dashboards against the types that Grafana publishes (@grafana/schema), of two of its versions.
//
// usage: node schema.mjs FILE...     exits with 1 and one line per fault if there is one
import { readFileSync, writeFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import Ajv from "ajv";
import { createGenerator } from "ts-json-schema-generator";

const here = dirname(fileURLToPath(import.meta.url));
const VERSIONS = { "10.4.19": "schema104", "11.6.0": "schema116" };
// Grafana's names of the panels that are used: kind of panel, package below composable/, file, has custom fields.
const PANELS = {
  stat: ["stat/panelcfg/x/StatPanelCfg", false],
  timeseries: ["timeseries/panelcfg/x/TimeSeriesPanelCfg", true],
  "state-timeline": ["statetimeline/panelcfg/x/StateTimelinePanelCfg", true],
  table: ["table/panelcfg/x/TablePanelCfg", true],
};
// "required" in these types means "has a default": Grafana fills in what an older file lacks. These are newer than 9.
const FILLED_IN = new Set(["showPercentChange", "wideLayout", "percentChangeColorMode", "cellHeight", "text"]);

// A validator for one type of a version's declarations. One generator each: all of them are named `Options`.
function validator(scratch, pack, module, type, additionalProperties) {
  const path = join(scratch, `${pack}-${module}-${type}`.replaceAll(/[^\w]/g, "_") + ".ts");
  const from = join(here, "node_modules", pack, "dist/esm/raw", `${module}_types.gen`);
  writeFileSync(path, `import type { ${type} } from ${JSON.stringify(from)};\nexport type T = ${type};\n`);
  // Inside, a version imports itself by the name that it is not installed under here.
  const tsconfig = join(scratch, `${pack}.json`);
  const paths = { "@grafana/schema": [join(here, "node_modules", pack, "dist/esm/index.d.ts")] };
  const compilerOptions = { moduleResolution: "node", module: "esnext", target: "es2022", strict: true, paths };
  writeFileSync(tsconfig, JSON.stringify({ compilerOptions, files: [path] }));
  const config = { path, tsconfig, type: "T", skipTypeCheck: true, expose: "none", topRef: false, additionalProperties };
  const ajv = new Ajv({ allErrors: true, strict: false });
  return ajv.compile(createGenerator(config).createSchema("T"));
}

function validators(scratch, pack) {
  const panels = {};
  for (const [kind, [file, custom]] of Object.entries(PANELS)) {
    const module = `composable/${file}`;
    panels[kind] = { options: validator(scratch, pack, module, "Options", false) };
    if (custom) panels[kind].custom = validator(scratch, pack, module, "FieldConfig", false);
  }
  // Data sources add keys of their own to annotations, variables and targets.
  return { dashboard: validator(scratch, pack, "dashboard/x/dashboard", "Dashboard", true), panels };
}

const isFilledIn = (error) => error.keyword === "required" && FILLED_IN.has(error.params.missingProperty);

function faults(validate, value, where) {
  if (validate(value)) return [];
  const real = validate.errors.filter((error) => !isFilledIn(error));
  return real.map((e) => `${where}${e.instancePath}: ${e.message} ${JSON.stringify(e.params)}`);
}

function check(file, version, { dashboard, panels }) {
  const page = JSON.parse(readFileSync(file, "utf8"));
  const at = `${basename(file)} for ${version}: `;
  const found = faults(dashboard, page, at);
  for (const panel of page.panels.filter((panel) => panel.type !== "row")) {
    const where = `${at}panel "${panel.title}" `;
    const known = panels[panel.type];
    if (!known) {
      found.push(`${where}: no schema for panels of type ${panel.type}; add it to schema.mjs`);
      continue;
    }
    found.push(...faults(known.options, panel.options, `${where}options`));
    const custom = panel.fieldConfig.defaults.custom;
    if (known.custom) found.push(...faults(known.custom, custom, `${where}custom`));
    else if (custom) found.push(`${where}: custom fields where this panel has none`);
  }
  return found;
}

const files = process.argv.slice(2);
if (files.length === 0) {
  console.error("usage: node schema.mjs FILE...");
  process.exit(2);
}
const scratch = mkdtempSync(join(tmpdir(), "konsul-schema-"));
let found = [];
try {
  for (const [version, pack] of Object.entries(VERSIONS)) {
    const of = validators(scratch, pack);
    // The net must hold: a page with a wrong type and an unknown option is caught.
    const broken = { ...JSON.parse(readFileSync(files[0], "utf8")), schemaVersion: "x" };
    if (of.dashboard(broken)) found.push(`schema of ${version} accepts a wrong dashboard`);
    if (of.panels.stat.options({ noSuchOption: 1 })) found.push(`schema of ${version} accepts a wrong option`);
    for (const file of files) found.push(...check(file, version, of));
  }
} finally {
  rmSync(scratch, { recursive: true });
}
for (const line of found) console.log(line);
console.log(`${files.length} dashboards, ${Object.keys(VERSIONS).length} versions of Grafana's schema: ${found.length} faults`);
process.exit(found.length === 0 ? 0 : 1);
