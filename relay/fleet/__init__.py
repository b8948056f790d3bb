"""What all processes together are doing, told through the database, so that any of them can show it in the admin.

Each process writes of itself (`reporter`); nobody writes of another. Idle, that is one small row every 2 s.
"""
