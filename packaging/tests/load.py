#!/usr/bin/env python3
"""Asks a node over and over until SIGTERM, each time over a new connection, and tells what came of it as JSON.

usage: load.py HOST:PORT [WORKERS]

Writes and reads in turn. "refused" and "reset" are connections, "failed" are answers other than 200, and than 404 to a
read: it is stale, so the first may come before the write is here. "slowest_ms" and
"p99_ms" are of those that were answered, "gap_ms" is the longest time without an answer.
Says "begun" on stderr once it has been answered twenty times.
"""
import json
import signal
import socket
import sys
import threading
import time

stop = threading.Event()
lock = threading.Lock()
counts = {"done": 0, "refused": 0, "reset": 0, "timeout": 0, "failed": 0}
seen, times, answered_at = [], [], [time.monotonic()]


def ask(host, port, request):
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while True:
            part = connection.recv(65536)
            if not part:
                return answer
            answer += part


def worker(host, port, number):
    turn = 0
    while not stop.is_set():
        turn += 1
        if turn % 2:
            head = "PUT /v1/kv/load/%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx" % number
        else:
            head = "GET /v1/kv/load/%d?stale HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % number
        began, what = time.monotonic(), "done"
        try:
            answer = ask(host, port, head.encode())
            if not answer:
                what = "reset"
            elif not answer.startswith((b"HTTP/1.1 200 ",) if turn % 2 else (b"HTTP/1.1 200 ", b"HTTP/1.1 404 ")):
                what = "failed"
        except ConnectionRefusedError:
            what = "refused"
        except ConnectionError:
            what = "reset"
        except socket.timeout:
            what = "timeout"
        now = time.monotonic()
        with lock:
            counts[what] += 1
            if what == "done":
                times.append(now - began)
                answered_at.append(now)
                if counts[what] == 20:
                    print("begun", file=sys.stderr, flush=True)
            elif len(seen) < 5:
                seen.append("%s %s" % (what, answer[:120].decode("latin-1") if what == "failed" else ""))


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threads = [threading.Thread(target=worker, args=(host, int(port), n)) for n in range(workers)]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()
    ordered = sorted(times) or [0.0]
    gaps = [b - a for a, b in zip(answered_at, answered_at[1:])] or [0.0]
    counts["p99_ms"] = round(ordered[len(ordered) * 99 // 100] * 1000)
    counts["slowest_ms"] = round(ordered[-1] * 1000)
    counts["gap_ms"] = round(max(gaps) * 1000)
    counts["seen"] = seen
    print(json.dumps(counts))


main()
