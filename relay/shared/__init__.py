"""What the processes of one gateway count together, and how they learn of each other's changes.

    quotas ─► link ─► keeper      the supervisor's book, over a Unix socket: one machine
                  └─► redis_book  the same book in Redis: many machines
    bell                          Redis tells the watchers to poll now; the database says what is new

A single process counts by itself, without any of this. If the shared book can't be reached, a process goes on with its
own counts: limits then apply per process.
"""
