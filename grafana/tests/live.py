#!/usr/bin/env python3
"""Tries dashboards and alerts on a real cluster that a real Prometheus scrapes.

Every query of every panel has to be understood and to answer with numbers; every metric of Raft that a node shows has
to be on a panel; the alert for a cluster without a leader has to fire when there is none, to stay silent over a mere
change of leader, and to end by itself.
"""

import argparse
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE_S = 90
RULES = ROOT / "grafana/alerts/konsul.rules.yml"
# The budget of series of one node.
SERIES_MAX = 1500


class Fault(Exception):
    """What was expected did not come about."""


def until(what, look, patience=PATIENCE_S):
    """Waits until `look` gives something; its last complaint is told if it never does."""
    end, why = time.monotonic() + patience, None
    while time.monotonic() < end:
        try:
            found = look()
            if found:
                return found
        except (OSError, urllib.error.URLError, Fault) as fault:
            why = fault
        time.sleep(0.2)
    raise Fault(f"{what}: not within {patience} s" + (f" ({why})" if why else ""))


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


class Cluster:
    """Three nodes of scripts/env."""

    def __init__(self, scratch, binaries, base):
        self.dir, self.binaries, self.base = scratch / "cluster", binaries, base

    def env(self, *command, first=()):
        line = [ROOT / "scripts/env", "--dir", self.dir, *first, *command]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Fault(f"scripts/env {' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self):
        self.env("start", first=("--bin", self.binaries, "--port-base", str(self.base)))
        self.nodes = {node["name"]: node for node in json.loads(self.env("json"))["nodes"]}
        return self

    def ctl(self, *command, server=None):
        servers = server or ",".join(node["http"] for node in self.nodes.values())
        line = [self.dir / "bin/konsulctl", "--server", servers, *command]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    def leader(self):
        told = re.search(r"^Node +(\S+)", self.ctl("cluster", "leader").stdout, re.MULTILINE)
        return told and told[1]

    def kill(self, name):
        os.kill(json.loads(self.env("json"))["nodes"][int(name[1]) - 1]["pid"], signal.SIGKILL)


class Prometheus:
    """The real one, asked over HTTP."""

    def __init__(self, scratch, port, targets):
        self.url = f"http://127.0.0.1:{port}"
        config = scratch / "prometheus.yml"
        # JSON is YAML.
        config.write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "konsul", "static_configs": [{"targets": targets}]}],
        }))
        self.log = (scratch / "prometheus.log").open("w")
        line = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={scratch / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}"]
        self.process = subprocess.Popen(line, stdout=self.log, stderr=self.log)
        until("Prometheus is ready", lambda: get(f"{self.url}/-/ready"))

    def ask(self, path, **parameters):
        try:
            return json.loads(get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))["data"]
        except urllib.error.HTTPError as refused:
            raise Fault(refused.read().decode()) from refused

    def query(self, expr):
        return self.ask("query", query=expr)["result"]

    def alert(self, name):
        """inactive, pending or firing."""
        states = {alert["state"] for alert in self.ask("alerts")["alerts"] if alert["labels"]["alertname"] == name}
        return "firing" if "firing" in states else "pending" if "pending" in states else "inactive"

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def panels():
    """(page, panel, query) of every dashboard."""
    for path in sorted((ROOT / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield path.stem, panel["title"], target["expr"]


def filled(expr, cluster):
    """With the variables of the dashboard in place."""
    for name, value in {"$cluster": cluster, "$node": ".+", "$__rate_interval": "20s"}.items():
        expr = expr.replace(name, value)
    if "$" in expr:
        raise Fault(f"a variable that is not known: {expr}")
    return expr


def has_numbers(result):
    return any(not math.isnan(float(series["value"][1])) for series in result)


def try_panels(prometheus, cluster_id):
    count = 0
    for page, title, expr in panels():
        expr = filled(expr, cluster_id)

        def look(expr=expr):
            return has_numbers(prometheus.query(expr)) or None

        until(f'{page}, panel "{title}": a number from {expr}', look)
        count += 1
    print(f"{count} queries of all panels: understood, and each has numbers")


def try_coverage(cluster):
    """Every metric of Raft is on a panel; the names are those of a real scrape."""
    shown = " ".join(expr for _, _, expr in panels())
    for node in cluster.nodes.values():
        scrape = get(node["http"] + "/metrics")
        families = dict(re.findall(r"^# TYPE (konsul_raft_\w+) (\w+)$", scrape, re.MULTILINE))
        if len(families) < 20:
            raise Fault(f"only {len(families)} metrics of Raft in a scrape of {node['name']}")
        suffix = {"counter": "_total", "histogram": "_bucket", "gauge": ""}
        missing = [name for name, kind in families.items() if not re.search(rf"\b{name}{suffix[kind]}\b", shown)]
        if missing:
            raise Fault(f"on no panel: {', '.join(missing)}; add them in grafana/lib/pages.py")
        series = sum(1 for line in scrape.splitlines() if not line.startswith("#"))
        if series > SERIES_MAX:
            raise Fault(f"{node['name']} has {series} series, the budget is {SERIES_MAX}")
        print(f"{node['name']}: {len(families)} metrics of Raft, each on a panel; {series} series of at most {SERIES_MAX}")


def try_alert(cluster, prometheus):
    """A change of leader is no alarm; no leader is one, until there is one again."""
    alert = "KonsulNoLeader"
    until(f"{alert} is inactive", lambda: prometheus.alert(alert) == "inactive")
    first = cluster.leader()
    cluster.kill(first)
    second = until("another node leads", lambda: cluster.leader() not in (None, first) and cluster.leader())
    until("Prometheus sees it", lambda: prometheus.query(f'konsul_raft_is_leader{{node="{second}"}} == 1'))
    if prometheus.alert(alert) == "firing":
        raise Fault(f"{alert} fires over a change of leader")
    print(f"kill -9 of the leader, {first}: {second} leads, {alert} does not fire")
    cluster.kill(second)
    began = time.monotonic()
    until(f"{alert} fires", lambda: prometheus.alert(alert) == "firing")
    print(f"kill -9 of {second} too: no leader, {alert} fires after {time.monotonic() - began:.0f} s")
    cluster.env("start")
    until(f"{alert} ends", lambda: prometheus.alert(alert) == "inactive")
    print(f"both started again: {alert} has ended")


def snapshots(cluster, prometheus):
    """Has each node make one more snapshot than Prometheus has seen, and waits until it has seen that."""

    def seen():
        built = prometheus.query('konsul_raft_snapshots_total{op="build", result="ok"}')
        return {series["metric"]["node"]: float(series["value"][1]) for series in built}

    before = seen()

    def look():
        late = [name for name, count in seen().items() if count <= before[name]]
        # Without news there is nothing to make a snapshot of.
        cluster.ctl("kv", "put", "grafana/news", str(time.monotonic()))
        for name in late:
            done = cluster.ctl("cluster", "snapshot", server=cluster.nodes[name]["http"])
            if done.returncode != 0:
                raise Fault(f"no snapshot of {name}: {done.stderr}")
        return not late

    until("one more snapshot of each node", look)


def busy(cluster, prometheus):
    """Something for every panel to show."""
    # The first one makes the series appear, the second one makes them rise.
    for _ in range(2):
        snapshots(cluster, prometheus)
    saved = cluster.ctl("snapshot", "save", "--verify", "--report", str(cluster.dir / "backup.kbs"))
    if saved.returncode != 0:
        raise Fault(f"no backup: {saved.stderr}")
    line = [ROOT / "scripts/env", "--dir", cluster.dir, "--duration", "60s", "--clients", "4", "load"]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def run(scratch, args):
    cluster, prometheus, load = Cluster(scratch, args.bin, args.port_base), None, None
    try:
        cluster.start()
        targets = [node["http"].removeprefix("http://") for node in cluster.nodes.values()]
        prometheus = Prometheus(scratch, args.port_base + 99, targets)
        until("all nodes are scraped", lambda: len(prometheus.query("konsul_build_info")) == len(targets))
        cluster_id = prometheus.query("konsul_build_info")[0]["metric"]["cluster"]
        load = busy(cluster, prometheus)
        try_panels(prometheus, cluster_id)
        try_coverage(cluster)
        os.killpg(load.pid, signal.SIGTERM)
        try_alert(cluster, prometheus)
    finally:
        if load:
            try:
                os.killpg(load.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            load.wait()
        if prometheus:
            prometheus.end()
        if (cluster.dir / "test-cluster").exists():
            cluster.env("reset")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/debug", help="where konsuld and konsulctl are")
    parser.add_argument("--port-base", type=int, default=24500, help="ports of the nodes follow it [default: 24500]")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    with tempfile.TemporaryDirectory(prefix="konsul-grafana-") as scratch:
        # The nodes run under other user ids if this is root.
        pathlib.Path(scratch).chmod(0o755)
        try:
            run(pathlib.Path(scratch), args)
        except Fault as fault:
            print(f"live.py: {fault}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
