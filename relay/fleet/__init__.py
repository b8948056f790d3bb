"""What all processes are doing, shared through the database, so that any of them can show it in the admin.

Each process writes only about itself (`reporter`). When idle, that is one small row every 2 s.
"""
