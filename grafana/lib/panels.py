"""What Grafana needs to show a query: the JSON of panels and dashboards.

Written for schema version 36, which Grafana 9 reads as it is and later ones migrate by themselves. Only fields that
exist in every version from 9 on are written.
"""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUNBOOKS = "https://github.com/konsul/konsul/blob/main/runbooks"
# Grafana's grid: a page is 24 wide.
WIDTH = 24


def query(expr, legend="{{node}}", *, instant=False, table=False):
    """One PromQL query of a panel."""
    return {
        "datasource": DATASOURCE,
        "expr": expr,
        "legendFormat": legend,
        "instant": instant,
        "range": not instant,
        "format": "table" if table else "time_series",
    }


def thresholds(steps):
    """[(from, colour)], ascending; the first has no lower end."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def _panel(kind, title, description, queries, *, width, height, options, defaults, custom=None, overrides=(), **rest):
    fields = {"mappings": [], "thresholds": thresholds([(None, "green")]), "color": {"mode": "palette-classic"}}
    fields |= {key: value for key, value in defaults.items() if value is not None}
    if custom is not None:
        fields["custom"] = custom
    targets = [{"refId": chr(ord("A") + at), **target} for at, target in enumerate(queries)]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"x": 0, "y": 0, "w": width, "h": height},
        "targets": targets,
        "fieldConfig": {"defaults": fields, "overrides": list(overrides)},
        "options": options,
        **rest,
    }


def _reduced():
    return {"calcs": ["lastNotNull"], "fields": "", "values": False}


def _link(kind, title, **rest):
    """A link in all its fields; which of them count depends on its kind."""
    link = {"type": kind, "title": title, "icon": "external link", "tooltip": "", "url": "", "tags": [],
            "asDropdown": False, "targetBlank": False, "includeVars": False, "keepTime": False}
    return link | rest


def _runbook(slug):
    return [_link("link", f"Runbook: {slug}", url=f"{RUNBOOKS}/{slug}.md", targetBlank=True)] if slug else []


def stat(title, description, expr, legend="", *, unit="short", steps, mappings=(), width=4, runbook=None, text="auto"):
    """One number, coloured by what it means."""
    options = {
        "reduceOptions": _reduced(),
        "orientation": "auto",
        "textMode": text,
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
    }
    defaults = {"unit": unit, "thresholds": thresholds(steps), "color": {"mode": "thresholds"}, "mappings": list(mappings)}
    return _panel("stat", title, description, [query(expr, legend, instant=True)], width=width, height=4, options=options,
                  defaults=defaults, links=_runbook(runbook))


def graph(title, description, queries, *, unit="short", steps=None, width=12, low=0, high=None, stack=False, runbook=None):
    """Lines over time; `steps` are drawn as lines where they matter."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 25 if stack else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if steps else "off"},
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"unit": unit, "min": low, "max": high, "thresholds": thresholds(steps) if steps else None}
    queries = [queries] if isinstance(queries, dict) else queries
    return _panel("timeseries", title, description, queries, width=width, height=8, options=options, defaults=defaults,
                  custom=custom, links=_runbook(runbook))


def timeline(title, description, queries, *, mappings, width=24, height=6, runbook=None):
    """Which state, when."""
    options = {
        "mergeValues": True,
        "showValue": "never",
        "alignValue": "left",
        "rowHeight": 0.85,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    defaults = {"mappings": list(mappings), "color": {"mode": "thresholds"}}
    return _panel("state-timeline", title, description, queries, width=width, height=height, options=options,
                  defaults=defaults, custom={"lineWidth": 0, "fillOpacity": 75}, links=_runbook(runbook))


def table(title, description, columns, *, by="node", width=24, height=7, hide=(), runbook=None):
    """One row for each `by`; `columns`: [(name, unit, query)], each a column of its own."""
    queries = [query(expr, "", instant=True, table=True) for _, _, expr in columns]
    letters = [chr(ord("A") + at) for at in range(len(columns))]
    renamed = {f"Value #{letter}": name for letter, (name, _, _) in zip(letters, columns)}
    hidden = {name: True for name in ("Time", "cluster", "job", "instance", "__name__", *hide)}
    overrides = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for name, unit, _ in columns
    ]
    transformations = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": hidden, "indexByName": {by: 0}, "renameByName": renamed}},
    ]
    options = {
        "frameIndex": 0,
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": []},
    }
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    return _panel("table", title, description, queries, width=width, height=height, options=options, defaults={},
                  custom=custom, overrides=overrides, transformations=transformations, links=_runbook(runbook))


def row(title):
    """A heading."""
    return {"type": "row", "title": title, "collapsed": False, "gridPos": {"x": 0, "y": 0, "w": WIDTH, "h": 1}, "panels": []}


def values(pairs):
    """{value: (text, colour)} as a mapping of a field."""
    options = {value: {"text": text, "color": color, "index": at} for at, (value, (text, color)) in enumerate(pairs.items())}
    return [{"type": "value", "options": options}]


def _placed(panels):
    x = y = height = 0
    for number, panel in enumerate(panels, start=1):
        place = panel["gridPos"]
        if x + place["w"] > WIDTH:
            x, y, height = 0, y + height, 0
        place["x"], place["y"] = x, y
        x, height = x + place["w"], max(height, place["h"])
        yield {"id": number, **panel}


def _variable(name, label, expr, *, multi):
    everything = {"text": "All", "value": "$__all"}
    first = {"text": "", "value": ""}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "definition": expr,
        "query": {"query": expr, "refId": f"{name}-query"},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "multi": multi,
        "includeAll": multi,
        "current": {"selected": False, **(everything if multi else first)},
        "options": [],
        "skipUrlSync": False,
    }


def dashboard(page):
    """The whole page: variables, links to its sisters, marks at changes of leader."""
    source = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "current": {"selected": False, "text": "", "value": ""},
        "options": [],
        "skipUrlSync": False,
    }
    marks = {
        "name": "Change of leader",
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "orange",
        "expr": 'sum by (cluster) (changes(konsul_raft_term{cluster="$cluster"}[1m])) > 0',
        "titleFormat": "Change of leader",
    }
    return {
        "uid": page["slug"],
        "title": page["title"],
        "description": page["description"],
        "tags": ["konsul"],
        "schemaVersion": 36,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "weekStart": "",
        "fiscalYearStartMonth": 0,
        "annotations": {"list": [marks]},
        "links": [_link("dashboards", "Konsul", tags=["konsul"], includeVars=True, keepTime=True)],
        "templating": {"list": [
            source,
            _variable("cluster", "Cluster", "label_values(konsul_build_info, cluster)", multi=False),
            _variable("node", "Node", 'label_values(konsul_build_info{cluster="$cluster"}, node)', multi=True),
        ]},
        "panels": list(_placed(page["panels"])),
    }
