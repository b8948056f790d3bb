"""What the processes of one gateway count together, and how they hear of each other's changes.

    quotas ─► link ─► keeper      the supervisor's book, over a Unix socket: one machine
                  └─► redis_book  the same book in Redis: many machines
    bell                          Redis says "look now" to the watchers; the database says what is new

A process that is alone counts for itself, without any of it. Where the others can't be asked, it goes on with what it
knows: a limit is then held per process.
"""
