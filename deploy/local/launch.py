"""A program that notes itself with the warden, drops root where asked, and becomes its command.

Run by path: `launch.py NOTE_FD DEATH_SIGNAL USER -- COMMAND...`, USER being a name or `-`. The pipe
to the warden stays open in this process until the command replaces it, so that a starter that dies
meanwhile is noticed only after the note was written: no child escapes.
"""

import ctypes
import os
import pwd
import struct
import sys

PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522


def main() -> None:
    note_fd, death_signal, user = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    command = sys.argv[5:]
    os.set_inheritable(note_fd, False)
    os.write(note_fd, f"+{os.getpid()} {death_signal}\n".encode())
    if user != "-":
        become(pwd.getpwnam(user))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def become(account: pwd.struct_passwd) -> None:
    """From root to the account for good, still able to pass through folders only root may enter.

    A data folder below /root or in a private temporary folder stays where the user put it, and no
    permission of a folder that is not ours is changed.
    """
    on_linux = sys.platform == "linux"
    if on_linux:
        prctl(PR_SET_KEEPCAPS, 1, 0)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    if on_linux:
        keep_capability(CAP_DAC_OVERRIDE)


def keep_capability(number: int) -> None:
    """Keep this one of root's capabilities over the exec; without effect where root lacks it."""
    mask = 1 << number
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    sets = struct.pack("IIIIII", mask, mask, mask, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, sets) == 0:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


def prctl(option: int, first: int, second: int) -> None:
    ctypes.CDLL(None).prctl(
        option, ctypes.c_ulong(first), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0)
    )


if __name__ == "__main__":
    main()
