"""Authentication: from the places where tokens travel to the Identification of a request.

::

    places → tokens (→ keys, jwks, claims) → revocation → tickets → middleware → ``scope["identity"]``
"""
