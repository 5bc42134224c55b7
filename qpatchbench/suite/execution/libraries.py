"""Requests of a process of its own to the libraries that compute: to wait asleep, and to keep the memory they got.

For the command line and its workers, never for a program that imports the package: both are settings of the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform

# Turns of the loop in which a thread of GNU's OpenMP waits before it sleeps, where it would be 300,000.
# A training step of ResNet-20 on two threads then takes 1.78 s beside a busy process, and 0.88 s on quiet cores; with
# GNU's own number 2.8 and 0.84, and with OMP_WAIT_POLICY=PASSIVE, which is no turn at all, 1.57 and 1.00.
_SPINS = "1000"
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # variables that say how threads wait

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_KEPT, _LARGEST = 2**29, 2**30  # bytes: free at the top of the heap, and of a block of the heap


def wait_asleep() -> None:
    """Let threads that wait for others sleep soon. Before torch is loaded, and unless the user has said how to wait."""
    if not os.environ.keys() & WAITING:
        os.environ["GOMP_SPINCOUNT"] = _SPINS  # workers on this machine inherit it


def keep_memory() -> bool:
    """Let freed memory be used again instead of given back, where the allocator is glibc's; says whether it was asked.

    It asks the system for each block of some megabytes anew, and the system clears every page of it. On one thread of
    an AMD EPYC that is 4.9 of 6.8 s for 50 images of 260x260 through a quantized EfficientNet-Lite2 (0.8 of 2.4 with
    this), and two fifths of an image gradient. A process then holds some GB more between two jobs, and an eighth more
    at its peak (7.4 GB instead of 6.6). Nothing is asked where the user has chosen how memory is allocated.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _KEPT))
    return False
