"""Who is it? From the places a token travels in to the Identification of a request.

::

    places → tokens (→ keys, jwks, claims) → revocation → tickets → middleware → ``scope["identity"]``
"""
