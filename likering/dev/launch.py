"""Becomes another program: drops to an account, asks the kernel for a death signal, then execs.

Run as a script (``python -I -S launch.py parent signal uid gid held program argument…``) between the supervisor
and each server, because all of this must happen in the child, and Python's ``preexec_fn`` is not safe in a process with
threads. The process id stays the same across the exec. Standard library only: it runs without site-packages.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
SAME = -1
"""As uid and gid: stay who we are."""
HELD = 9
"""The file descriptor under which the program finds the directory that is held open for it."""


def main(arguments: list[str]) -> None:
    parent, death_signal, uid, gid = (int(argument) for argument in arguments[:4])
    held, program = arguments[4], arguments[5]
    os.chdir("/")
    if held:
        # Before the account changes: it may not be able to walk to the directory.
        os.dup2(os.open(held, os.O_RDONLY | os.O_DIRECTORY), HELD)
    if uid != SAME:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if sys.platform == "linux":
        # After the account changed, for that clears it. The signal comes when the *thread* that forked us ends, which
        # is why all processes are spawned by one thread that stays (see process.py).
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            sys.exit("launch: the supervisor ended meanwhile")
    try:
        os.execv(program, arguments[5:])
    except OSError as error:
        sys.exit(f"launch: cannot run {program}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
