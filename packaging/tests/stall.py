#!/usr/bin/env python3
"""Stops all threads of one name of a process, and nothing else of it, until the process has ended or this one is told to.

usage: stall.py PID NAME

Says "stalled" when they stand still. A debugger could do the same; nothing in the process can tell.
"""
import ctypes
import os
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
# Linux: children of every kind, threads of others included.
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, thread):
    if libc.ptrace(request, thread, None, None) == -1:
        error = ctypes.get_errno()
        raise OSError(error, "thread %d: %s" % (thread, os.strerror(error)))


def threads(pid, name):
    for thread in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/comm" % (pid, thread)) as comm:
            if comm.read().strip() == name:
                yield int(thread)


def main():
    pid, name = int(sys.argv[1]), sys.argv[2]
    found = list(threads(pid, name))
    if not found:
        sys.exit("stall.py: process %d has no thread %r" % (pid, name))
    for thread in found:
        ptrace(PTRACE_SEIZE, thread)
        ptrace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, WALL)
    print("stalled", flush=True)
    while found:
        thread, status = os.waitpid(-1, WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            found.remove(thread)


main()
